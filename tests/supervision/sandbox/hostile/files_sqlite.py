# A library that writes files of its own.
def policy(obs, t):
    import sqlite3

    sqlite3.connect(NEW).execute("create table x (y)")
    return [0.0, 0.0]
