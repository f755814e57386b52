# Compiles every module of a tree: unchecked-hash bytecode (PEP 552), because a store file's time says
# nothing and its content never changes; relative file names, so the result does not depend on where
# the tree lies; one process in sorted order, because two gave different reference flags. Where an
# instance works on a copy that it may change (`checked`), the source's hash is compared on import. A tree may be
# one file, which its store path does not name (`module`).
import os, py_compile, sys
src, out = os.environ["src"], os.environ["out"]
sys.dont_write_bytecode = True
os.mkdir(out)
tag = sys.implementation.cache_tag
modes = py_compile.PycInvalidationMode
mode = modes.CHECKED_HASH if os.environ.get("checked") else modes.UNCHECKED_HASH
def modules(top):
    for folder, folders, files in os.walk(top):
        folders.sort()
        if folder == top:
            # What a .data folder holds besides the library folders is no module.
            folders[:] = [f for f in folders if not f.endswith(".data")]
        for name in sorted(files):
            if name.endswith(".py"):
                yield os.path.join(folder, name)
module = os.environ.get("module")
for path in [src] if module else modules(src):
    relative = module or os.path.relpath(path, src)
    folder, name = os.path.split(relative)
    target = os.path.join(out, folder, "__pycache__", "%s.%s.pyc" % (name[:-3], tag))
    try:
        py_compile.compile(path, target, relative, doraise=True, invalidation_mode=mode)
    except (py_compile.PyCompileError, SyntaxError, ValueError, UnicodeError, RecursionError):
        # A template or a file for another Python: importing it fails the same way uncompiled.
        pass
