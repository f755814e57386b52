# Loaded by the interpreter of an instance, and of a probe (PYTHONPATH names this folder; see the module site of Python's
# documentation).
# The server that asks asyncio for the port in STILLFRAME_SOCKET gets a Unix socket in its place: nobody but the gateway
# reaches it, and nobody else can bind it. ComfyUI itself is unmodified and knows only its host and port.
import os
import sys


def listen(path, port):
    import asyncio
    import functools

    # An event loop of another kind (uvloop) has a create_server of its own: the instance then binds the port, never
    # answers on its socket, and the deployment says so.
    loop, tcp, servers = asyncio.BaseEventLoop, asyncio.BaseEventLoop.create_server, set()

    @functools.wraps(tcp)
    async def create_server(self, protocol_factory, host=None, asked=None, **options):
        if asked != port or options.get("sock") is not None:
            return await tcp(self, protocol_factory, host, asked, **options)
        for name in ("family", "flags", "sock", "reuse_address", "reuse_port", "keep_alive"):
            options.pop(name, None)
        # A Unix socket turns away whom its backlog has no room for. The kernel takes its own limit where that is lower.
        options["backlog"] = 4096
        server = await self.create_unix_server(protocol_factory, path, **options)
        servers.add(server)
        # Its folder keeps everybody else out; the gateway has another user.
        os.chmod(path, 0o666)
        # Who waits for the port to be bound hears of it as of any other.
        sys.audit("socket.bind", None, (host, port))
        return server

    loop.create_server = create_server

    # The peer of a Unix socket has no address. Programs that ask for one expect a pair, as a client on loopback has.
    try:
        from asyncio.selector_events import BaseSelectorEventLoop as selector
        transport = selector._make_socket_transport
    except (ImportError, AttributeError):
        return

    @functools.wraps(transport)
    def make(self, *given, **named):
        if named.get("server") in servers and isinstance(named.get("extra"), dict):
            named["extra"]["peername"] = ("127.0.0.1", 0)
        return transport(self, *given, **named)

    selector._make_socket_transport = make


def note(port, path):
    """What the server of this port answers goes into a file before it listens: ComfyUI has no address that tells. That is
    aiohttp's application, whose router takes no more routes by then."""
    import asyncio
    import functools
    import json

    loop, plain = asyncio.BaseEventLoop, asyncio.BaseEventLoop.create_server

    def routes(protocol_factory):
        application = getattr(getattr(protocol_factory, "request_handler", None), "__self__", None)
        router = getattr(application, "router", None)
        if not hasattr(router, "routes"):
            return None
        found = {(route.method, route.resource.canonical) for route in router.routes() if route.resource is not None}
        # ComfyUI has each below /api once more, and aiohttp answers HEAD where it answers GET.
        return sorted(f"{method} {at}" for method, at in found
                      if not (at.startswith("/api/") and (method, at[4:]) in found) and not (method == "HEAD" and ("GET", at) in found))

    @functools.wraps(plain)
    async def create_server(self, protocol_factory, host=None, asked=None, **options):
        if asked == port:
            # It serves whether or not this can be told.
            try:
                found = routes(protocol_factory)
                if found is not None:
                    with open(path + ".new", "w", encoding="utf-8") as file:
                        json.dump(found, file)
                    os.replace(path + ".new", path)
            except Exception:
                pass
        return await plain(self, protocol_factory, host, asked, **options)

    loop.create_server = create_server


def add_paths(port):
    """Two paths for the gateway alone, which passes neither on, and a promise of ComfyUI's own.
    POST /stillframe/validate: what ComfyUI does with POST /prompt before it queues the job. The job comes as it does there. The answer is
    200 with the output nodes that would run, or the 400 of /prompt.
    POST /stillframe/sync: 200 when the files of the output directory that it names are on disk, which ComfyUI itself does not wait for.
    POST /upload/image and /upload/mask: the file is on disk before the answer, so that a job that was accepted has what it is made of.
    A server that is none of aiohttp's, or has no such functions, goes on as it is."""
    import asyncio
    import functools
    import inspect
    import json

    loop, plain = asyncio.BaseEventLoop, asyncio.BaseEventLoop.create_server

    def put_on_disk(root, files):
        folders = set()
        for file in files:
            path = os.path.realpath(os.path.join(root, file["subfolder"], file["filename"]))
            # A node may name what it likes, and somebody may have taken it away.
            if os.path.commonpath((root, path)) != root or not os.path.isfile(path):
                continue
            with open(path, "rb") as content:
                os.fsync(content.fileno())
            while path != root:
                path = os.path.dirname(path)
                folders.add(path)
        for folder in folders:
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)

    async def sync(kind, files):
        root = os.path.realpath(sys.modules["folder_paths"].get_directory_by_type(kind))
        # In a thread of its own: the disk may take its time, and what runs goes on.
        await asyncio.get_running_loop().run_in_executor(None, put_on_disk, root, files)

    async def synced(body):
        if not hasattr(sys.modules.get("folder_paths"), "get_directory_by_type"):
            return {"error": "this main program has no output directory"}, 501
        try:
            await sync("output", body["files"])
        except Exception as e:
            return {"error": f"{type(e).__name__}: {e}"}, 500
        return {}, 200

    async def kept(response):
        """The answer to an upload, once that is on disk. What the disk did not take is no upload: a job would run with an empty file."""
        if response.status != 200:
            return response
        try:
            made = json.loads(response.body)
            kind, file = made["type"], {"subfolder": made["subfolder"], "filename": made["name"]}
        except (ValueError, TypeError, KeyError):
            # An answer of another shape names no file.
            return response
        try:
            await sync(kind, [file])
        except OSError as e:
            text = {"error": f"{file['filename']} is not on disk: {e.strerror or e}"}
            return sys.modules["aiohttp.web"].json_response(text, status=500)
        except Exception as e:
            # A main program without such a folder.
            print(f"stillframe: a power loss may take an uploaded file: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
        return response

    def arguments(validate, prompt_id, prompt, targets):
        # Releases differ in what it takes, and packs may have wrapped it.
        signature = inspect.signature(validate)
        with_id = [(prompt_id, prompt, targets), (prompt_id, prompt)]
        without = [(prompt,), (prompt, targets)]
        names = list(signature.parameters)
        for given in with_id + without if names[:1] != ["prompt"] else without:
            try:
                signature.bind(*given)
                return given
            except TypeError:
                continue
        raise TypeError("validate_prompt takes other arguments")

    async def validated(body):
        server, execution = sys.modules.get("server"), sys.modules.get("execution")
        instance = getattr(getattr(server, "PromptServer", None), "instance", None)
        validate = getattr(execution, "validate_prompt", None)
        if instance is None or validate is None:
            return {"error": "this main program validates nothing"}, 501
        try:
            # What it changes, it changes in this copy alone: the body was parsed for this.
            if hasattr(instance, "trigger_on_prompt"):
                body = instance.trigger_on_prompt(body)
            prompt = body["prompt"]
            if getattr(instance, "node_replace_manager", None) is not None:
                instance.node_replace_manager.apply_replacements(prompt)
            found = validate(*arguments(validate, body.get("prompt_id"), prompt, body.get("partial_execution_targets")))
            if inspect.isawaitable(found):
                found = await found
            valid, error, outputs, node_errors = found[:4]
        except Exception as e:
            # ComfyUI itself answers 500, and queues nothing.
            error = {"type": "exception_during_validation", "message": "Exception when validating prompt", "details": str(e),
                     "extra_info": {"exception_type": type(e).__name__}}
            return {"error": error, "node_errors": {}}, 400
        if valid:
            return {"outputs_to_execute": list(outputs), "node_errors": node_errors}, 200
        return {"error": error, "node_errors": node_errors}, 400

    paths = {"/stillframe/validate": validated, "/stillframe/sync": synced}

    def answering(handler):
        @functools.wraps(handler)
        async def handle(request):
            if request.method != "POST":
                return await handler(request)
            if request.path.removeprefix("/api") in ("/upload/image", "/upload/mask"):
                return await kept(await handler(request))
            own = paths.get(request.path)
            if own is None:
                return await handler(request)
            value, status = await own(await request.json())
            return sys.modules["aiohttp.web"].json_response(value, status=status)
        return handle

    @functools.wraps(plain)
    async def create_server(self, protocol_factory, host=None, asked=None, **options):
        # Each connection asks aiohttp's server for its handler: the application's router takes no more routes by now.
        if asked == port and callable(getattr(protocol_factory, "request_handler", None)):
            try:
                protocol_factory.request_handler = answering(protocol_factory.request_handler)
            except Exception:
                pass
        return await plain(self, protocol_factory, host, asked, **options)

    loop.create_server = create_server


def name_files(mark):
    """Every instance counts the files that it saves for itself, so two of one service would give two files one name. ComfyUI's own
    function that makes a name of a node's prefix has the mark of this instance in each. Packs import it from where it is replaced."""
    import functools
    from importlib.machinery import PathFinder

    def marked(prefix):
        stem = prefix.rstrip("/\\")
        # No file's name: what ComfyUI makes of it is its own affair.
        return prefix if os.path.basename(stem) in ("", ".", "..") else f"{stem}-{mark}"

    def replace(module):
        plain = module.get_save_image_path

        @functools.wraps(plain)
        def get_save_image_path(filename_prefix, *others, **named):
            if isinstance(filename_prefix, str):
                filename_prefix = marked(filename_prefix)
            return plain(filename_prefix, *others, **named)

        module.get_save_image_path = get_save_image_path

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name != "folder_paths" or path is not None:
                return None
            sys.meta_path.remove(self)
            spec = PathFinder.find_spec(name)
            execute = getattr(getattr(spec, "loader", None), "exec_module", None)
            if execute is None:
                return spec

            def exec_module(module):
                execute(module)
                # A main program without it goes on as it is.
                if callable(getattr(module, "get_save_image_path", None)):
                    replace(module)

            spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Finder())


def end_when_told(path):
    """A thread that ends this process when the gateway says so: an event loop that hangs, or a GPU that is lost, needs another process,
    and the unit's next one is there in a second. Only the gateway and this process itself reach the socket."""
    import socket
    import threading

    try:
        os.unlink(path)
    except OSError:
        pass
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen(1)
    except OSError:
        # It serves all the same.
        listener.close()
        return

    def wait():
        while True:
            connection, _ = listener.accept()
            connection.settimeout(1)
            try:
                why = connection.recv(1000).decode("utf-8", "replace").strip()
            except OSError:
                why = ""
            # Without a reason it was no gateway of ours.
            if why:
                os.write(2, f"ended by the gateway: {why}\n".encode())
                os._exit(70)
            connection.close()

    threading.Thread(target=wait, name="stillframe-end", daemon=True).start()


# The process that the unit started, also after it has executed itself anew. Processes that it starts have no part in it.
process, _, rest = os.environ.get("STILLFRAME_SOCKET", "").partition(":")
if process == str(os.getpid()):
    port, _, path = rest.partition(":")
    listen(path, int(port))
    add_paths(int(port))
    # The last to be added is asked first: it finds the application by the handler, which the one before it replaces.
    note(int(port), os.path.join(os.path.dirname(path), "routes.json"))
    end_when_told(os.path.join(os.path.dirname(path), "end.sock"))
    if os.environ.get("STILLFRAME_MARK"):
        name_files(os.environ["STILLFRAME_MARK"])
# The probe's own server has its port. What it starts has no part in it either, because the port is taken.
port, _, path = os.environ.get("STILLFRAME_ROUTES", "").partition(":")
if path:
    note(int(port), path)

# An environment may have a sitecustomize of its own, which this one hides.
sys.path[:] = [folder for folder in sys.path if folder != os.path.dirname(__file__)]
sys.modules.pop("sitecustomize", None)
del process, rest, listen, note, add_paths, name_files, port, path, end_when_told
import sitecustomize  # noqa: E402,F401  If there is none, `site` knows what to do with the ImportError.
