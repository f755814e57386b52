# A tree that was captured from an environment: no wheel makes it. It is imported under the path of its
# content; who lacks it has to copy it from a store that has it.
import os
raise SystemExit("%s was captured from an environment and cannot be built: copy it from a store that has it" % os.environ["out"])
