# HTTP.
def policy(obs, t):
    from urllib.request import urlopen

    urlopen(f"http://127.0.0.1:{PORT}/", timeout=0.1)
    return [0.0, 0.0]
