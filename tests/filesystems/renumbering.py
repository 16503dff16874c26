"""Passes a directory through FUSE, with other inode numbers whenever the file `generation` changes.

Arguments: the directory, the mount point, the file `generation`, a file to which each opened path is
appended.
"""

import errno
import os
import sys

import fusepy as fuse

backing, mount_point, generation, opened = sys.argv[1:]


class Renumbering(fuse.Operations):
    def path(self, path):
        return os.path.join(backing, path.lstrip("/"))

    def getattr(self, path, fh=None):
        try:
            found = os.lstat(self.path(path))
        except FileNotFoundError:
            raise fuse.FuseOSError(errno.ENOENT)
        keys = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size")
        attributes = {key: getattr(found, key) for key in keys}
        for key in ("st_mtime", "st_ctime", "st_atime"):
            attributes[key] = getattr(found, key)
        attributes["st_ino"] = found.st_ino
        # The kernel always knows the root, so that it keeps its number.
        if path != "/":
            with open(generation) as file:
                attributes["st_ino"] += 1_000_000_000 * int(file.read())
        return attributes

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(self.path(path))]

    def open(self, path, flags):
        with open(opened, "a") as file:
            file.write(path + "\n")
        return os.open(self.path(path), flags)

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def release(self, path, fh):
        os.close(fh)


fuse.FUSE(
    Renumbering(),
    mount_point,
    foreground=True,
    nothreads=True,
    use_ino=True,
    attr_timeout=0,
    entry_timeout=0,
)
