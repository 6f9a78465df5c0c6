"""archive.py NAME=FILE...: writes an initramfs with these files to standard output."""

import sys


def padded(data):
    return data + bytes(-len(data) % 4)


def entry(name, mode, data=b""):
    name = name.encode() + b"\0"
    fields = [1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0]
    head = b"070701" + b"".join(b"%08x" % field for field in fields)
    sys.stdout.buffer.write(padded(head + name) + padded(data))


entry("dev", 0o040755)
for word in sys.argv[1:]:
    name, path = word.split("=", 1)
    with open(path, "rb") as file:
        entry(name, 0o100755, file.read())
entry("TRAILER!!!", 0)
