# Loaded by _stillframe_start.pth where the launch file asks for it. While a large program imports, Python's collector
# goes through everything imported so far again and again: of a real ComfyUI's 5.4 s to ready, 0.9 were that. Until the
# server listens, young objects are collected after ten thousand new ones in place of 700, all of them hardly ever;
# from then on as the program has it. A hook, because nothing else tells of a port; it cannot be taken off, and costs
# one comparison an event.
import gc, os, sys
def defer(port):
    usual, ours = gc.get_threshold(), (10_000, 10, 10)
    gc.set_threshold(*ours)
    def heard(event, arguments):
        nonlocal port
        if event != "socket.bind" or port is None:
            return
        address = arguments[1]
        # Others bind too while they start: urllib3 tries what the machine has.
        if isinstance(address, tuple) and address[1:2] == (port,):
            port = None
            if gc.get_threshold() == ours:
                gc.set_threshold(*usual)
    sys.addaudithook(heard)
# Processes that it starts have no part in it.
defer(int(os.environ.pop("STILLFRAME_DEFER_GC")))
