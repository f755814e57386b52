"""A sample of `make chaos`: eight instances behind one port, and fifty clients each of whom hears and sees what is its own and nothing else."""
import owned
import routed
import service

SECONDS = 60
PLAN = routed.Plan(requests=2000, limit=120)


class EightInstances(service.Case):
    def test_nobody_is_answered_what_is_somebody_elses(self):
        host = owned.Owned(self.place, PLAN.slots)
        host.configure()
        crowd = routed.Routed(host, PLAN)
        crowd.prepare()
        self.assertEqual(crowd.run(), [])
        self.assertEqual(crowd.figures["misrouted"], 0)
        print(crowd.figures, flush=True)
