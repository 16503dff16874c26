# Sourced by build-image and build-rpm: reads --program FILE from the arguments, or builds the static program
# with the list of its dependencies in it. Sets `program`, and `options` to the other arguments.
#
# The scripts set `caller`, the directory from which they were called: a relative FILE starts there.
program=
options=("$@")
if [[ ${1-} == --program=* ]]; then
    program=${1#*=}
    options=("${@:2}")
elif [[ ${1-} == --program ]]; then
    program=${2:?a file}
    options=("${@:3}")
fi
if [[ " ${options[*]} " == *" --program"[\ =]* ]]; then
    echo "--program must be the first option" >&2
    exit 2
fi
if [[ -n $program && $program != /* ]]; then
    program=$caller/$program
fi
# The image has no C library, and the RPM package names none.
if [[ -n $program ]] && readelf --program-headers "$program" | grep INTERP >/dev/null; then
    echo "$program is not static" >&2
    exit 1
fi
# Further options for buildah itself, such as --root.
read -r -a buildah_options <<<"${BUILDAH_OPTIONS-}"
if [[ -z $program ]]; then
    static=x86_64-unknown-linux-musl
    cargo auditable build --release --locked --target "$static" >&2
    program=${CARGO_TARGET_DIR:-target}/$static/release/project-webhooks
fi
