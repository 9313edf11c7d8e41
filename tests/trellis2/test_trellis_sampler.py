"""Where the sampler must arrive when the flow is known in closed form."""

import pytest

torch = pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")

from trellis_pipeline.trellis2.sampler import (  # noqa: E402
    SIGMA_MIN,
    SamplerSettings,
    euler_steps,
    schedule,
    spread_dense,
    spread_sparse,
)

PLAIN = SamplerSettings(steps=5, guidance_strength=1.0, guidance_rescale=0.0)


def flow_towards(x, t, target):
    """The exact velocity when the only clean latent is `target`: along the straight line through x."""
    t = t / 1000
    noise = (x - (1 - t) * target) / (SIGMA_MIN + (1 - SIGMA_MIN) * t)
    return (1 - SIGMA_MIN) * noise - target


def last_of(how, target, no_target, noise, spread=spread_dense):
    *_, step = euler_steps(flow_towards, noise, target, no_target, how, spread)
    return step.x


@pytest.mark.parametrize("steps", [1, 2, 12, 50])
@pytest.mark.parametrize("rescale_t", [1.0, 3.0, 6.0])
def test_a_straight_flow_arrives_at_its_target_in_any_number_of_steps(steps, rescale_t):
    target, noise = torch.randn(2, 3, 4, 4, 4), torch.randn(2, 3, 4, 4, 4)
    how = SamplerSettings(steps=steps, guidance_strength=1.0, guidance_rescale=0.0, rescale_t=rescale_t)
    arrived = last_of(how, target, torch.zeros_like(target), noise)
    torch.testing.assert_close(arrived, target + SIGMA_MIN * noise, rtol=1e-4, atol=1e-4)


def test_strength_zero_ignores_the_photo():
    target, other, noise = torch.randn(3, 1, 3, 2, 2, 2).unbind(0)
    how = SamplerSettings(steps=4, guidance_strength=0.0, guidance_rescale=0.5, guidance_interval=(0.0, 1.0))
    torch.testing.assert_close(last_of(how, target, other, noise), other, rtol=1e-4, atol=1e-4)


def test_guidance_goes_beyond_the_photo_away_from_none():
    target, other, noise = torch.randn(3, 1, 3, 2, 2, 2).unbind(0)
    how = SamplerSettings(steps=1, guidance_strength=3.0, guidance_rescale=0.0, guidance_interval=(0.0, 1.0))
    arrived = last_of(how, target, other, noise)
    torch.testing.assert_close(arrived, 3 * target - 2 * other, rtol=1e-4, atol=1e-4)


def test_full_rescaling_gives_the_guided_latent_the_contrast_of_the_plain_one():
    target, other, noise = torch.randn(3, 1, 3, 4, 4, 4).unbind(0)
    how = SamplerSettings(steps=1, guidance_strength=7.5, guidance_rescale=1.0)
    arrived = last_of(how, target, other, noise)
    torch.testing.assert_close(arrived.std(), target.std(), rtol=1e-3, atol=1e-4)
    guided = 7.5 * target - 6.5 * other
    torch.testing.assert_close(arrived, guided * target.std() / guided.std(), rtol=1e-3, atol=1e-3)


def test_sparse_contrast_is_measured_in_each_sample():
    x = torch.cat([torch.full((4, 2), 5.0), torch.randn(6, 2) * 3])
    spread = spread_sparse([4, 6])(x)
    assert spread.shape == (10, 1)
    assert spread[:4].eq(0).all()
    torch.testing.assert_close(spread[4], x[4:].std(correction=0)[None])


def test_guidance_acts_inside_its_interval_with_both_ends():
    asked = []

    def flow(x, t, cond):
        asked.append((round(t, 9), cond.item()))
        return torch.zeros_like(x)

    how = SamplerSettings(steps=12, guidance_strength=7.5, guidance_interval=(0.6, 1.0), rescale_t=3.0)
    steps = euler_steps(flow, torch.randn(1, 2), torch.ones(1), torch.zeros(1), how, spread_sparse([1]))
    assert [step.number for step in steps] == list(range(1, 13))
    guided = [t for t, cond in asked if cond == 0]
    assert len(asked) == 21
    assert guided[0] == 1000
    assert guided[-1] == 600  # exactly on the edge, in float64


def test_the_schedule_runs_from_one_to_zero_and_bends_to_high_noise():
    times = schedule(12, 3.0)
    assert times[0] == 1
    assert times[-1] == 0
    assert times[8] == 0.6
    assert (times[1:] < times[:-1]).all()
    assert times[6] == pytest.approx(0.75)
    assert schedule(4, 1.0).tolist() == [1, 0.75, 0.5, 0.25, 0]


def test_whoever_watches_can_stop_between_two_steps():
    calls = []

    def flow(x, t, _cond):
        calls.append(t)
        return x

    for step in euler_steps(flow, torch.ones(1, 1), torch.ones(1), torch.zeros(1), PLAIN, spread_dense):
        if step.number == 2:
            break
    assert len(calls) == 2
