"""What models and people answer about MountainCarContinuous-v0, and discrete environments as the scripts wrap them."""

import json

import gymnasium as gym
import numpy as np
from torch.utils.tensorboard import SummaryWriter

import llm_supervisor as sup

PUSH = "```python\nimport numpy as np\n\ndef policy(obs, t):\n    return np.array([1.0 if obs[1] >= 0 else -1.0])\n```"
BRAKE = PUSH.replace(">=", "<")
INTERVENE = json.dumps({"analysis": "it stands still", "intervene": True, "advice": "pump energy",
                        "keep_current_policy": False})  # fmt: skip
CONTENT = json.dumps({"analysis": "fine", "intervene": False, "advice": "", "keep_current_policy": False})
KEEP = INTERVENE.replace('policy": false', 'policy": true')


def vectors(env_id: str, **options) -> gym.Env:
    """A discrete environment as the scripts wrap it: observations are the integers of which they consist."""
    env = gym.make(env_id, **options)
    if isinstance(env.observation_space, gym.spaces.Box):
        return env
    n = [part.n for part in getattr(env.observation_space, "spaces", [env.observation_space])]
    return gym.wrappers.TransformObservation(env, lambda obs: np.array(obs, np.int64).reshape(-1),
                                             gym.spaces.MultiDiscrete(n))  # fmt: skip


class Training:
    """Training's loop in an environment with discrete actions, of an agent whose actions are `act(obs)`."""

    def __init__(self, make, act, args, run_dir):
        self.envs = gym.vector.SyncVectorEnv([lambda: make(None)], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
        self.act, self.guidance, self.step = act, None, 0
        self.supervisor = sup.Supervisor(args, self.envs, env_fn=make, run_dir=run_dir)
        self.supervisor.prepare()
        self.writer = SummaryWriter(str(run_dir))
        self.obs, self.t = self.envs.reset(seed=args.seed)[0], np.zeros(1, dtype=np.int64)
        self.actions, self.episodes = [], []  # (executed, by the rule), (rewards, steps by the rule)

    def consult(self):
        self.guidance = self.supervisor.consult(self.step, self.writer)
        return self.guidance

    def run(self, steps: int) -> None:
        """So many steps, without a consultation."""
        for _ in range(steps):
            if not self.t[0]:
                self.episodes.append(([], []))
            actions, mask = self.act(self.obs), np.zeros(1, dtype=bool)
            if self.guidance is not None:
                given, mask = self.guidance(self.obs, self.t)
                assert actions.dtype == given.dtype == np.int64 and actions.shape == given.shape
                actions = np.where(mask, given, actions)
            following, rewards, terminations, truncations, infos = self.envs.step(actions)
            done = terminations | truncations
            last = np.stack(infos["final_obs"]) if done.all() else following
            self.step += 1
            self.supervisor.observe(
                self.step, self.obs, self.t, actions, rewards, last, terminations, truncations, self.writer
            )
            self.actions.append((int(actions[0]), bool(mask[0])))
            self.episodes[-1][0].append(float(rewards[0]))
            self.episodes[-1][1].append(bool(mask[0]))
            self.obs, self.t = following, np.where(done, 0, self.t + 1)

    def close(self) -> None:
        self.supervisor.end(self.step, self.writer)
        self.writer.close()
        self.envs.close()
