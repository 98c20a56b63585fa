"""Attacks on the guarantee: canaries, hostile jobs, and what an attacker could have learnt."""
