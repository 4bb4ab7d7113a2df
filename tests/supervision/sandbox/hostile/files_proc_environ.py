# The environment of another process, with its API key.
def policy(obs, t):
    entries = open(f"/proc/{BYSTANDER}/environ").read().split("\0")
    return [float(dict(entry.split("=", 1) for entry in entries if entry)["OPENAI_API_KEY"]), 0.0]
