"""Humanoid-v5 (47 observations): support while the robot is going down, a small sinusoidal gait once it stands."""

import math

import numpy as np

DT = 0.015  # seconds per step
ABDOMEN_Y, ABDOMEN_X = 0, 2  # actions; 0 and 1 are swapped with respect to the observation
# (hip_y action, knee action, hip_y angle, hip_y velocity, knee angle, knee velocity, side of the gait)
RIGHT_LEG = (5, 6, 12, 35, 13, 36, 1.0)
LEFT_LEG = (9, 10, 16, 39, 17, 40, -1.0)

SUPPORT_LIMIT = 0.2  # largest supporting command, half of the range: it nudges and does not take over
GAIT_AMPLITUDE = 0.05  # an eighth of the range: larger swings fell a robot that has just learned to stand
GAIT_FREQUENCY = 1.5  # strides per second
GAIT_START, GAIT_FADE = 60, 60  # steps: the landing is over by then, and a robot that falls at once never gets here


def outside(value, low, high):
    """Zero inside [low, high], the signed excess outside."""
    return value - min(max(value, low), high)


def policy(obs, t):
    """Residual commands, added to the agent's own; the sum is clipped to [-0.4, 0.4].

    obs: float64 array of shape (47,): 24 positions, 23 velocities
    t: step of the current episode, an int from 0
    returns: array of shape (17,), finite and within [-0.4, 0.4]
    """
    w, x, y, z = (float(v) for v in obs[3:7])
    forward_lean = 2.0 * (w * y - x * z)
    right_lean = 2.0 * (w * x + y * z)
    roll_rate, pitch_rate = float(obs[27]), float(obs[28])

    # 0 while the robot stands (upright it is about 1.28 m high), 1 when it is going down. The bands are wide: an agent
    # that crouches or leans may well be in balance, and support that pulls it out of its own stance fells it.
    sunk = (1.20 - float(obs[2])) / 0.05
    tilted = (max(abs(forward_lean - 0.1), abs(right_lean)) - 0.5) / 0.2
    need = min(1.0, max(0.0, sunk, tilted))

    # An episode that lasts shows that the agent balances by itself: the support fades out and the gait fades in.
    stage = min(1.0, max(0.0, (t - GAIT_START) / GAIT_FADE))
    support = need * (1.0 - stage)

    # The gait: one phase for all joints, left and right in antiphase, and nothing while the robot is going down.
    gait = GAIT_AMPLITUDE * stage * (1.0 - need)
    swing = math.sin(2.0 * math.pi * GAIT_FREQUENCY * DT * (t - GAIT_START))

    lean_excess = outside(forward_lean, -0.1, 0.3)  # a little forward lean belongs to walking
    trunk = 0.5 * lean_excess + 0.035 * pitch_rate  # leaning forward: hips back (positive) raises the torso

    action = np.zeros(17)
    for hip, knee, hip_angle, hip_velocity, knee_angle, knee_velocity, side in (RIGHT_LEG, LEFT_LEG):
        # Hold the thigh a little in front of the vertical, with damping.
        hip_support = trunk - outside(float(obs[hip_angle]), -0.6, -0.07) - 0.02 * float(obs[hip_velocity])
        # The weight buckles the knees first: straighten (positive). Damping above 0.064 over-corrects this light joint.
        knee_support = 1.5 * max(0.0, -float(obs[knee_angle])) - 0.05 * float(obs[knee_velocity])
        # Swing this leg forward (negative) and bend its knee (negative) meanwhile; the other leg bears the weight.
        forward = side * swing
        action[hip] = support * limited(hip_support) - gait * forward
        action[knee] = support * limited(knee_support) - gait * max(0.0, forward)

    # Positive abdomen_y leans the torso back, positive abdomen_x leans it to the left.
    action[ABDOMEN_Y] = support * limited(0.6 * lean_excess + 0.05 * pitch_rate)
    action[ABDOMEN_X] = support * limited(0.4 * right_lean + 0.06 * roll_rate)
    return np.clip(action, -0.4, 0.4)


def limited(command):
    """A supporting command, bounded so that it stays a residual."""
    return min(max(command, -SUPPORT_LIMIT), SUPPORT_LIMIT)
