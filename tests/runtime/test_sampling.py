from __future__ import annotations

import torch

from megacontext.runtime.sampling import Sampler, SamplingConfig

LOGITS = torch.tensor([0.0, 2.0, 1.0, -1.0])


def test_greedy_takes_the_likeliest():
    assert Sampler(SamplingConfig()).draw(LOGITS) == 1


def test_draws_follow_the_probabilities():
    sampler = Sampler(SamplingConfig(temperature=1.0, seed=0))
    counts = torch.bincount(torch.tensor([sampler.draw(LOGITS) for _ in range(4000)]), minlength=4) / 4000
    torch.testing.assert_close(counts, torch.softmax(LOGITS, 0), atol=0.03, rtol=0)


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    # probabilities 0.61, 0.22, 0.08, ... : 0.61 alone is below 0.7, the two likeliest reach it
    sampler = Sampler(SamplingConfig(temperature=1.0, top_p=0.7, seed=0))
    assert {sampler.draw(LOGITS) for _ in range(200)} == {1, 2}
    assert Sampler(SamplingConfig(temperature=5.0, top_p=0.01, seed=0)).draw(LOGITS) == 1


def test_the_smallest_temperature_is_as_good_as_greedy():
    assert Sampler(SamplingConfig(temperature=5e-324, seed=0)).draw(LOGITS) == 1
    assert Sampler(SamplingConfig(temperature=1e308, seed=0)).draw(LOGITS) in range(4)
