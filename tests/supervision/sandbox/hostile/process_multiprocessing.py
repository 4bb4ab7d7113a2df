# multiprocessing.
def policy(obs, t):
    import multiprocessing

    process = multiprocessing.get_context("fork").Process(target=lambda: open(CANARY).read())
    process.start()
    process.join()
    return [0.0, 0.0]
