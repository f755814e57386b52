# The captured runtime with its standard library's bytecode beside it: links to the runtime's files,
# compiled modules as real files. A virtual environment's `home` points here. Before 3.11 the interpreter does not go by
# that: it looks for its library from where its own real file is (getpath.c), which then is here, too.
import os, py_compile, shutil, sys
src, out = os.environ["src"], os.environ["out"]
sys.dont_write_bytecode = True
tag = sys.implementation.cache_tag
by_real_file = sys.version_info < (3, 11)
for folder, folders, files in os.walk(src):
    folders.sort()
    relative = os.path.relpath(folder, src)
    base = out if relative == "." else os.path.join(out, relative)
    os.makedirs(base, exist_ok=True)
    for name in list(folders):
        if os.path.islink(os.path.join(folder, name)):
            os.symlink(os.path.join(folder, name), os.path.join(base, name))
    for name in sorted(files):
        if by_real_file and relative == "bin":
            shutil.copy(os.path.join(folder, name), os.path.join(base, name), follow_symlinks=False)
            continue
        os.symlink(os.path.join(folder, name), os.path.join(base, name))
        if name.endswith(".py") and relative.startswith("lib/"):
            shown = os.path.join(relative, name).split("/", 2)[2]
            target = os.path.join(base, "__pycache__", "%s.%s.pyc" % (name[:-3], tag))
            try:
                py_compile.compile(os.path.join(folder, name), target, shown, doraise=True,
                                   invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
            except (py_compile.PyCompileError, SyntaxError, ValueError, UnicodeError, RecursionError):
                pass
