"""Passes a directory through FUSE. It ignores case, and its listings have no types.

Arguments: the directory, the mount point, a file with the paths whose metadata cannot be read.
"""

import errno
import os
import sys

import fusepy as fuse

backing, mount_point, failing = sys.argv[1:]


class Failing(fuse.Operations):
    def path(self, path):
        found = backing
        for name in filter(None, path.split("/")):
            names = [one for one in os.listdir(found) if one.lower() == name.lower()]
            if not names:
                raise fuse.FuseOSError(errno.ENOENT)
            found = os.path.join(found, name if name in names else names[0])
        return found

    def getattr(self, path, fh=None):
        with open(failing) as file:
            if path in file.read().splitlines():
                raise fuse.FuseOSError(errno.EIO)
        found = os.lstat(self.path(path))
        keys = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_ino")
        times = ("st_mtime", "st_ctime", "st_atime")
        return {key: getattr(found, key) for key in keys + times}

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(self.path(path))]

    def open(self, path, flags):
        return os.open(self.path(path), flags)

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def release(self, path, fh):
        os.close(fh)


fuse.FUSE(
    Failing(),
    mount_point,
    foreground=True,
    nothreads=True,
    use_ino=True,
    attr_timeout=0,
    entry_timeout=0,
)
