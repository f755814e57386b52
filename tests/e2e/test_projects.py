"""Several projects with the same host: none takes another's service or port without a word."""
import json
import shutil

import service
from service import Stream

SECONDS = 60


class Projects(service.Case):
    def test_one_host_of_two_projects(self):
        first = self.place.project
        self.place.deploy("--label", "mine", mark="mine")
        second = self.place.ws.root / "second"
        shutil.copytree(first, second, ignore=shutil.ignore_patterns(".stillframe"))
        deploy = lambda project, *more, code=0: Stream(self.place.ws.stillframe("--json", "deploy", "--snapshot", "mine", *more, cwd=project, code=code))
        dry = deploy(second, "--dry-run", code=1)
        unavailable = next(e for e in dry.events if e["type"] == "unavailable")["error"]
        self.assertEqual(next(e for e in dry.events if e["type"] == "result"), {"type": "result", "dry_run": True, "failed": 1})
        deploy(first, "--dry-run"), deploy(second, "--dry-run", "--take-over")
        refused = deploy(second, code=1).host()
        # What it does is what the dry run said.
        self.assertEqual((unavailable["message"], unavailable["hint"]), (refused["error"], refused["hint"]))
        self.assertRegex(refused["error"], rf"^alpha: demo is served for another project, {first} of tester@\S+; this one is {second} of tester@\S+$")
        self.assertEqual(refused["hint"], "give this service another name ([service] name), or take it over: stillframe deploy --take-over")
        self.assertEqual((self.place.status()["serving"], self.place.history()[0]["events"][-1]["status"]), (1, "failed"))
        # Another checkout of the same project has its id.
        checkout = self.place.ws.root / "checkout"
        shutil.copytree(first, checkout)
        self.assertEqual(json.loads((checkout / ".stillframe/project.json").read_text()).keys(), {"version", "id"})
        deploy(checkout, "--again")
        deploy(second, "--take-over", "--again")
        self.assertEqual(self.place.status()["serving"], 3)
        self.assertIn(f"another project, {second} of", deploy(first, code=1).host()["error"])
        # What its own deployment brought before serves again: it is its own again.
        self.place.ws.stillframe("rollback", cwd=second)
        deploy(first, "--again")

        # A neighbour under a name of its own, with ports that are not.
        neighbour = self.place.ws.root / "neighbour"
        shutil.copytree(second, neighbour, ignore=shutil.ignore_patterns(".stillframe"))
        settings = (neighbour / "stillframe.toml").read_text().replace('name = "demo"', 'name = "neighbour"\nport = PORT')
        for port, error, hint in (
                (service.PORT, "port 8188 is taken: the service demo is served on it; port 8189 is taken: the service demo has its metrics on it",
                 "give the service another port"),
                (service.PORT + 1, "port 8189 is taken: the service demo has its metrics on it", "give the service another port"),
                (service.PORT - 1, "port 8188 is taken: the service demo is served on it", "give its metrics another port: gateway.metrics-port")):
            (neighbour / "stillframe.toml").write_text(settings.replace("PORT", str(port)))
            host = deploy(neighbour, code=1).host()
            self.assertEqual(host["error"], f"alpha: {error}")
            self.assertIn(hint, host["hint"])
        (neighbour / "stillframe.toml").write_text(settings.replace("PORT", "8300"))
        deploy(neighbour)
        self.assertEqual(self.place.mark(), "mine")
