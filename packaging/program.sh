# Sourced by build-image and build-rpm: reads --program FILE from the arguments, or builds the static program
# with the list of its dependencies in it. Sets `program`, and `options` to the other arguments.
program=
options=("$@")
if [[ ${1-} == --program ]]; then
    program=${2:?a file}
    options=("${@:3}")
fi
# Further options for buildah itself, such as --root.
read -r -a buildah_options <<<"${BUILDAH_OPTIONS-}"
if [[ -z $program ]]; then
    static=x86_64-unknown-linux-musl
    cargo auditable build --release --locked --target "$static" >&2
    program=${CARGO_TARGET_DIR:-target}/$static/release/project-webhooks
fi
