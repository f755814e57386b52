"""The public port as others on the network see it: keys, limits, its own pages, metrics, and requests that wait for an instance."""
import json
import threading
import time

import service

SECONDS = 40

KEY = "a-key-of-enough-letters-0123456789"


class Public(service.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        (cls.place.project / "key").write_text(KEY + "\n")
        cls.place.configure(service='listen = "0.0.0.0"\n[service.gateway]\napi-keys = [{ file = "key" }]\nbody-limit = "1MiB"\nhold = "20s"')
        cls.place.deploy("--label", "public", mark="public")

    def ask(self, path, *arguments, port=8188):
        out = self.place.curl("alpha", path, "-w", "\n%{http_code}", *arguments, port=port)
        body, _, status = out.rpartition("\n")
        return int(status), body

    def key(self, key=KEY):
        return ["-H", f"Authorization: Bearer {key}"]

    def test_a_key_is_asked_for(self):
        status, body = self.ask("/system_stats")
        self.assertEqual((status, json.loads(body)["error"]["status"]), (401, 401))
        self.assertEqual(self.ask("/system_stats", *self.key("another-key-of-enough-letters"))[0], 401)
        for way in (self.key(), ["-H", f"X-Api-Key: {KEY}"], ["-u", f"anybody:{KEY}"]):
            status, body = self.ask("/system_stats", *way)
            self.assertEqual((status, json.loads(body)["system"]["mark"]), (200, "public"))
        head = self.place.curl("alpha", "/", "-D", "-", "-o", "/dev/null")
        self.assertIn('WWW-Authenticate: Basic realm="stillframe demo"'.lower(), head.lower())
        self.assertEqual(self.ask("/prompt", "-d", "{}")[0], 401)
        self.assertEqual(self.alpha.sh(f"journalctl --no-pager | grep -c {KEY} || true").stdout.strip(), "0")
        self.assertNotIn(KEY, self.alpha.sh("cat /run/stillframe/demo/* /var/lib/stillframe/services/demo/state.json").stdout)

    def test_pages_of_other_sites_change_nothing(self):
        basic = ["-u", f"anybody:{KEY}", "--data-binary", "@/etc/passwd"]
        for header in ("Origin: https://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"):
            status, body = self.ask("/upload/image", *basic, "-H", header)
            self.assertEqual((status, json.loads(body)["error"]["kind"]), (403, "cross-site"), header)
        # The host's own name, as the gateway finds it in its sandbox, and its address need no setting.
        for name in (self.alpha.run("hostname").stdout.strip(), self.alpha.address):
            same = ["-H", f"Host: {name}:8188", "-H", f"Origin: http://{name}:8188"]
            self.assertEqual(self.ask("/upload/image", *basic, *same)[0], 200, name)
        status, body = self.ask("/stillframe/ticket", "-X", "POST", *self.key())
        self.assertEqual(status, 200, body)
        path = f"/system_stats?ticket={json.loads(body)['ticket']}"
        self.assertEqual([self.ask(path)[0], self.ask(path)[0]], [200, 401])

    def test_its_own_pages(self):
        self.assertEqual(self.ask("/-/health")[0], 200)
        self.assertEqual(self.ask("/-/ready")[0], 200)
        self.assertEqual(self.ask("/-/instances")[0], 401)
        status, body = self.ask("/-/instances", *self.key())
        view = json.loads(body)
        self.assertEqual((status, view["service"], [i["healthy"] for i in view["instances"]]), (200, "demo", [True]))
        self.assertEqual(self.ask("/-/nothing", *self.key())[0], 404)

    def test_metrics_are_on_loopback_alone(self):
        self.ask("/system_stats", *self.key())
        text = self.place.local("alpha", "/metrics", port=8189)
        self.assertRegex(text, r'(?m)^stillframe_\w*requests_total\{.*\} \d+$')
        refused = self.place.client("curl", "-s", "--noproxy", "*", f"http://{self.alpha.address}:8189/metrics", check=False)
        self.assertEqual(refused.returncode, 7)

    def test_limits(self):
        big = self.place.ws.root / "big"
        big.write_bytes(bytes(2 << 20))
        status, body = self.ask("/upload/image", *self.key(), "--data-binary", f"@{big}", "-H", "Expect:")
        self.assertEqual((status, json.loads(body)["error"]["kind"]), (413, "body-too-large"))
        status, _ = self.ask("/upload/image", *self.key(), "--data-binary", "@/etc/passwd")
        self.assertEqual(status, 200)

    def test_requests_wait_for_an_instance(self):
        unit = next(u for u in self.place.units() if "-s0-g" in u)
        self.alpha.run("systemctl", "stop", unit)
        view = self.place.status(code=1)
        self.assertEqual((view["wanted"], view["ready"], view["instances"][0]["condition"]), (1, 0, "stopped"))
        self.assertIn(f"s0-g{view['serving']} is stopped; start it: systemctl start {unit}", self.place.run("status", code=1).out)
        self.wait(lambda: self.ask("/-/ready")[0] == 503)
        answers = []
        thread = threading.Thread(target=lambda: answers.append(self.ask("/system_stats", *self.key())))
        thread.start()
        time.sleep(1)
        self.assertEqual(answers, [])
        self.assertEqual(json.loads(self.ask("/-/instances", *self.key())[1])["held"], 1)
        self.alpha.run("systemctl", "start", unit)
        thread.join()
        self.assertEqual(answers[0][0], 200)

    def test_an_instance_that_dies_is_started_again(self):
        before = self.place.status()["instances"][0]
        self.place.instance("alpha", before["id"], "/exit", check=False)
        self.assertEqual(self.ask("/system_stats", *self.key())[0], 200)
        after = self.wait(lambda: next((i for i in self.place.status()["instances"] if i["condition"] == "healthy"), None))
        self.assertEqual(after["restarts"], before["restarts"] + 1)

    def test_a_short_key_is_refused(self):
        (self.place.project / "key").write_text("short\n")
        self.addCleanup((self.place.project / "key").write_text, KEY + "\n")
        refused = self.place.run("deploy", "--snapshot", "public", code=2).err
        self.assertRegex(refused, r"stillframe.toml: an API key has 5 characters; 16 are the least\n  hint: make one: openssl rand -hex 32")

    def test_an_address_that_comes_after_the_boot(self):
        """A network may be configured later than the gateway's socket is: by DHCP, a VPN, a carrier that comes late."""
        address = "10.77.0.99"
        file = self.place.project / "stillframe.toml"
        before = file.read_text()
        self.place.inside("alpha", ["ip", "address", "add", f"{address}/32", "dev", "lo"])
        self.addCleanup(self.place.inside, "alpha", ["ip", "address", "del", f"{address}/32", "dev", "lo"])
        self.addCleanup(self.place.deploy, "--snapshot", "public")
        self.addCleanup(file.write_text, before)
        file.write_text(before.replace('listen = "0.0.0.0"', f'listen = "{address}"'))
        self.place.deploy("--snapshot", "public")
        units = ["stillframe-demo-gateway.service", "stillframe-demo-gateway.socket"]
        self.alpha.run("systemctl", "stop", *units)
        self.place.inside("alpha", ["ip", "address", "del", f"{address}/32", "dev", "lo"])
        self.alpha.run("systemctl", "start", *reversed(units))
        self.place.inside("alpha", ["ip", "address", "add", f"{address}/32", "dev", "lo"])
        answer = self.place.inside("alpha", ["curl", "-sS", "--noproxy", "*", "--max-time", "30", f"http://{address}:8188/-/health"])
        self.assertEqual(json.loads(answer.stdout), {"service": "demo", "status": "alive"})

    def test_units_are_what_systemd_wants(self):
        units = [f"/run/systemd/system/{u}" for u in self.place.units()] + ["/etc/systemd/system/stillframe.service"]
        done = self.alpha.run("systemd-analyze", "verify", *units, check=False)
        self.assertEqual((done.returncode, [line for line in done.stderr.splitlines() if "stillframe" in line]), (0, []))
