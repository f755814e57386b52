# The snapshot: a manifest, a launch file per service, and links that a person can follow.
import json, os
out = os.environ["out"]
config = json.load(open(os.environ["configPath"]))
os.makedirs(os.path.join(out, "launch"))
def write(path, value):
    with open(os.path.join(out, path), "w") as f:
        json.dump(value, f, indent=2, sort_keys=True)
        f.write("\n")
write("snapshot.json", config["manifest"])
for name, launch in config["launch"].items():
    write("launch/%s.json" % name, launch)
for link in config["links"]:
    path = os.path.join(out, link["at"])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.symlink(link["to"], path)
