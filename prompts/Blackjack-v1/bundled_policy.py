"""Basic strategy for Blackjack-v1 where a player may only hit or stick, with cards from an infinite deck."""

STICK, HIT = 0, 1
ACE = 1


def policy(obs, t):
    """Action in place of the agent's own.

    obs: tuple of three ints: the player's sum, the dealer's open card (1 = ace), 1 if an ace counts as 11
    t: step of the current episode, an int from 0 (not used: the hand says all)
    returns: int, 0 stick, 1 hit
    """
    total, dealer, usable_ace = obs
    if usable_ace:
        # No card can bust the hand; 18 is not enough against a dealer who will probably reach 19 or more.
        enough = 19 if dealer in (9, 10, ACE) else 18
    elif dealer in (2, 3):
        enough = 13  # the dealer busts often, but not as often as from 4, 5 or 6
    elif dealer in (4, 5, 6):
        enough = 12  # the dealer busts most often from these: never risk to bust first
    else:
        enough = 17  # the dealer is likely to reach 17 or more, so a stiff hand loses anyway
    return STICK if total >= enough else HIT
