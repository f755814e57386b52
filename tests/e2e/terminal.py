"""The program in a terminal of its own: the foreground group of its session, which a Ctrl-C reaches whole."""
import os
import pty
import re
import select
import time

import harness

CTRL_C = b"\x03"
STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    def __init__(self, place, *arguments):
        command = [*map(str, place.ws.prefix), str(harness.BINARY), *arguments]
        environment = place.ws.environment(TERM="dumb")
        self.said, self.code = "", None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(place.project)
                os.execvpe(command[0], command, environment)
            finally:
                os._exit(127)

    def press(self, key=CTRL_C):
        os.write(self.fd, key)

    def read(self, seconds):
        """What is there; false once nobody has the terminal any more."""
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                more = os.read(self.fd, 65536)
            except OSError:
                more = b""
            self.said += STYLE.sub("", more.decode(errors="backslashreplace").replace("\r", ""))
            return bool(more)
        return True

    def ended(self, limit=60):
        """Its exit code."""
        deadline = time.monotonic() + limit
        while self.code is None and time.monotonic() < deadline:
            goes_on = self.read(0.1)
            pid, status = os.waitpid(self.pid, 0 if not goes_on else os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        while self.code is not None and select.select([self.fd], [], [], 0.2)[0] and self.read(0):
            pass
        return self.code

    def close(self):
        if self.code is None:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self.fd)
