"""The loop, against a loop written by hand: w_t at every step, the noise streams, what reaches the network."""

import math

import numpy as np
import pytest
import slow
import torch
from schedule import Schedule

from cupscale.method.guidance import LowGuidance
from cupscale.method.lowpass import LowPass
from cupscale.method.regions import Size, plan_regions
from cupscale.method.sampler import Notice, RegionsDone, StepDone, denoise, draw_noise, generator
from cupscale.method.structure import GlobalStructure
from cupscale.method.windows import FlatPlaces, even_grid

CANVAS = Size(9, 13)


class Network:
    """Known outputs: 0.3 x + t / 1000, cell by cell, so that fusing regions is the same as taking the canvas at once."""

    def __init__(self, most=100):
        self.captured, self.regions, self.calls = [], [], []
        self._most = most

    def capture(self, latents, t):
        self.captured.append((latents, t.item()))
        return 0.2 * latents - t / 2000

    def predict(self, latents, t, regions, ids, guided=True):
        if len(regions) > self._most:
            raise torch.OutOfMemoryError("no room")
        self.calls.append(list(ids))
        if ids[0] == 0:
            self.regions.append([])
        self.regions[-1] += list(regions)
        return 0.3 * latents + t / 1000


def normal(seed, stream, *shape):
    """The streams, as they are documented: apart in the 32 bits a generator on a CPU reads."""
    at = (seed + stream * 0x9E3779B9) % 2**32
    return torch.randn(*shape, generator=torch.Generator().manual_seed(at))


def latents():
    return torch.randn(2, 1, 2, *CANVAS, generator=torch.Generator().manual_seed(1))


def run(network, schedule, z, **options):
    options = {"window": CANVAS, "overlap": 0.5, "seed": 7} | options
    return [event for event in denoise(network, schedule, z, **options) if isinstance(event, StepDone)]


# The global structure prior, step by step


@pytest.mark.parametrize("steps", [4, 3, 1])
@pytest.mark.parametrize("window", [CANVAS, Size(5, 6)])
def test_w_t_step_by_step(steps, window):
    """x0 <- x0 + w_t LP(z_L - x0), w_t = w_0 (1 + cos(pi i / (n - 1))) / 2, and the sampler goes on from that x0."""
    z, reference = latents()
    w0, schedule = 0.7, Schedule(steps)
    prior = GlobalStructure(reference, 0.8, w0)
    done = run(Network(), schedule, z, structure=prior, window=window)
    assert [(event.step, event.steps) for event in done] == [(i, steps) for i in range(steps)]
    sample = (0.5 * z + 0.9 * normal(7, 0, *z.shape)).double().numpy()
    for i in range(steps):
        output = 0.3 * sample / 2 + schedule.timesteps[i].item() / 1000
        x0 = (sample - Schedule.s[i] * output) / Schedule.a[i]
        w = w0 * (1 + math.cos(math.pi * i / (steps - 1))) / 2 if steps > 1 else w0
        difference = reference.double().numpy() - x0
        for channel in range(2):
            x0[0, channel] += w * slow.lowpass(difference[0, channel], 0.8, (4, 5), (4, 7))
        assert np.allclose(done[i].x0, x0, atol=2e-5), i
        noise = (sample - Schedule.a[i] * x0) / Schedule.s[i]
        sample = x0 + Schedule.s[i + 1] * noise
        assert np.allclose(done[i].sample, sample, atol=5e-5), i


def test_without_the_prior_the_networks_own_estimate_is_taken():
    z, _ = latents()
    done = run(Network(), Schedule(), z)
    sample = 0.5 * z + 0.9 * normal(7, 0, *z.shape)
    for i, event in enumerate(done):
        output = 0.3 * sample / 2 + Schedule().timesteps[i] / 1000
        x0 = (sample - Schedule.s[i] * output) / Schedule.a[i]
        assert torch.allclose(event.x0, x0, atol=1e-5)
        sample = x0 + Schedule.s[i + 1] * output
        assert torch.allclose(event.sample, sample, atol=1e-5)


@pytest.mark.parametrize("space", ["x0", "z_t"])
def test_what_an_event_holds_stays_as_it_was(space):
    """The loop writes over tensors of its own, and over none that it has given away."""
    z, reference = latents()
    held = []
    structure = GlobalStructure(reference, 0.8, 0.7, space=space)
    for event in denoise(
        Network(), Schedule(), z, window=Size(4, 5), overlap=0.5, seed=7, structure=structure
    ):
        if isinstance(event, StepDone):
            held += [(event.x0, event.x0.clone()), (event.sample, event.sample.clone())]
    assert len(held) >= 6 and all(torch.equal(*both) for both in held)


def test_a_weight_of_nothing_asks_for_no_transform():
    """The last step's w_t is 0, and w_0 = 0 at every step."""

    class Counted(GlobalStructure):
        applied = 0

        def apply_(self, x0, weight, towards=None):
            Counted.applied += 1
            return super().apply_(x0, weight, towards)

    z, reference = latents()
    run(Network(), Schedule(), z, structure=Counted(reference, 0.8, 0.7))
    assert Counted.applied == 3
    run(Network(), Schedule(), z, structure=Counted(reference, 0.8, 0.0))
    assert Counted.applied == 3
    run(Network(), Schedule(), z, structure=Counted(reference, 0.8, 0.7, space="z_t"))
    assert Counted.applied == 6


def test_the_prior_in_z_t_step_by_step():
    """z_t <- z_t + w_t LP(a_i z_L + s_i noise - z_t) before the network, with the canvas' own noise; x0 is left alone."""
    z, reference = latents()
    schedule = Schedule()
    prior = GlobalStructure(reference, 0.8, 0.7, space="z_t")
    done = run(Network(), schedule, z, structure=prior)
    noise = normal(7, 0, *z.shape).double().numpy()
    sample = 0.5 * z.double().numpy() + 0.9 * noise
    for i in range(4):
        w = 0.7 * (1 + math.cos(math.pi * i / 3)) / 2
        towards = Schedule.a[i] * reference.double().numpy() + Schedule.s[i] * noise
        for channel in range(2):
            difference = (towards - sample)[0, channel]
            sample[0, channel] += w * slow.lowpass(difference, 0.8, (4, 5), (4, 7))
        output = 0.3 * sample / 2 + schedule.timesteps[i].item() / 1000
        x0 = (sample - Schedule.s[i] * output) / Schedule.a[i]
        assert np.allclose(done[i].x0, x0, atol=5e-5), i
        sample = x0 + Schedule.s[i + 1] * output


def test_the_prior_follows_the_overviews_estimate():
    """x0 of the pass at the same step, by the schedule's formula, enlarged; without `source` it stays the input's."""
    z, reference = latents()
    overview = torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(9))
    for source in ("overview", "input"):
        prior = GlobalStructure(reference, 1000.0, 1.0, source=source)
        done = run(Network(), Schedule(), z, structure=prior, overview=overview)
        seen = 0.6 * overview + 0.7 * normal(7, 1, 1, 2, 4, 5)  # at step 1
        x0 = (seen - 0.7 * (0.2 * seen / 2 - 0.3)) / 0.6
        wide = torch.nn.functional.interpolate(x0, CANVAS, mode="bicubic")
        towards = wide if source == "overview" else reference
        # Nothing is above this cutoff, so x0 goes w_t = 3/4 of the way.
        sample = done[0].sample
        own = (sample - 0.7 * (0.3 * sample / 2 + 0.6)) / 0.6
        assert torch.allclose(done[1].x0, own + 0.75 * (towards - own), atol=1e-4), source


def test_low_guidance_joins_what_the_network_gives():
    """Outputs of 2 C channels, the canvas fused from windows: the first C and, at a cutoff above all, twice the last C."""

    class Apart(Network):
        def predict(self, latents, t, regions, ids, guided=True):
            output = super().predict(latents, t, regions, ids)
            return torch.cat((output, 0.1 * latents), dim=1) if guided else output

    z, _ = latents()
    both = LowGuidance(LowPass(CANVAS, 1000.0), 2.0)
    done = run(Apart(), Schedule(), z, low_guidance=both, guided_steps=1, window=Size(5, 6))
    sample = 0.5 * z + 0.9 * normal(7, 0, *z.shape)
    output = 0.3 * sample / 2 + 0.9 + 2 * 0.1 * sample / 2
    assert torch.allclose(done[0].x0, (sample - 0.9 * output) / 0.5, atol=1e-4)
    output = 0.3 * done[0].sample / 2 + 0.6  # a step without guidance adds nothing
    assert torch.allclose(done[1].x0, (done[0].sample - 0.7 * output) / 0.6, atol=1e-4)


@pytest.mark.parametrize(
    ("count", "guided"), [(None, [True] * 4), (2, [True, True, False, False]), (0, [False] * 4)]
)
def test_the_first_steps_are_guided(count, guided):
    asked = []

    class Asked(Network):
        def predict(self, latents, t, regions, ids, guided=True):
            asked.append(guided)
            return super().predict(latents, t, regions, ids)

    run(Asked(), Schedule(), latents()[0], guided_steps=count)
    assert asked == guided


def test_a_state_to_begin_with_takes_the_place_of_the_noised_latent():
    z, sample = latents()
    (done,) = run(Network(), Schedule(1), z, sample=sample)
    assert torch.allclose(done.x0, (sample - 0.9 * (0.15 * sample + 0.9)) / 0.5, atol=1e-5)


def test_only_the_first_output_is_looked_at():
    class Broken(Network):
        def __init__(self, step):
            super().__init__()
            self._left = step

        def predict(self, latents, t, regions, ids, guided=True):
            self._left -= 1
            output = super().predict(latents, t, regions, ids)
            if self._left < 0:
                output[0, 1, 4, 5] = math.inf
            return output

    with pytest.raises(FloatingPointError):
        run(Broken(0), Schedule(), latents()[0])
    assert len(run(Broken(1), Schedule(), latents()[0])) == 4


# Noise


def test_the_streams_of_a_seed():
    """Known numbers: a change of them is a change of every picture."""
    first = {
        0: [-0.146795, 0.786141, 0.946822],
        1: [0.720760, -2.162176, -1.776694],
        2: [0.237897, 0.976976, 0.918160],
        3: [-0.645930, 0.058943, 0.031664],
    }
    for stream, numbers in first.items():
        assert draw_noise((3,), 7, stream).tolist() == pytest.approx(numbers, abs=1e-5)
        assert torch.equal(draw_noise((2, 3), 7, stream), normal(7, stream, 2, 3))
    assert torch.equal(draw_noise((3,), 7), draw_noise((3,), 7, 0))
    assert torch.rand(2, generator=generator(7, 3)).tolist() == pytest.approx([0.560690, 0.191820], abs=1e-5)
    assert draw_noise((3,), 2**32 - 1, 3).tolist() == normal(2**32 - 1, 3, 3).tolist()


def test_the_streams_are_independent():
    """Of one seed and of its neighbours: no two agree, and 4000 numbers correlate by chance alone."""
    drawn = [draw_noise((4000,), seed, stream) for seed in (0, 1, 7) for stream in range(4)]
    correlation = torch.corrcoef(torch.stack(drawn)) - torch.eye(12)
    assert correlation.abs().max() < 5 / 4000**0.5


def test_canvas_and_overview_have_a_noise_each_and_keep_it():
    """The canvas is noised once; the overview at every step anew, with the same noise, as much as that step has."""
    z, _ = latents()
    overview = torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(9))
    network = Network()
    drawn = []
    schedule = Schedule()
    schedule.noised = lambda x0, noise, i: (
        drawn.append((x0, noise.clone(), i)) or Schedule.noised(schedule, x0, noise, i)
    )
    run(network, schedule, z, overview=overview)
    canvas = [call for call in drawn if call[0].shape == z.shape and torch.equal(call[0], z)]
    assert len(canvas) == 1 and canvas[0][2] == 0 and torch.equal(canvas[0][1], normal(7, 0, *z.shape))
    assert len(drawn) == 5 and len(network.captured) == 4
    for i, (captured, t) in enumerate(network.captured):
        noise = normal(7, 1, 1, 2, 4, 5)
        assert torch.allclose(captured, (Schedule.a[i] * overview + Schedule.s[i] * noise) / 2, atol=1e-6)
        assert t == schedule.timesteps[i]


def test_without_an_overview_there_is_no_pass_over_it():
    network = Network()
    run(network, Schedule(), latents()[0])
    assert network.captured == []


def test_the_windows_of_each_step_come_from_the_jitters_stream():
    network, z = Network(), torch.zeros(1, 1, 20, 33)
    run(network, Schedule(), z, window=Size(8, 9), overlap=0.4)
    jitter = torch.Generator().manual_seed((7 + 3 * 0x9E3779B9) % 2**32)
    assert network.regions == [plan_regions(Size(20, 33), Size(8, 9), 0.4, jitter) for _ in range(4)]
    assert network.regions[0] != network.regions[1]


# Regions at once


def test_each_region_is_cropped_from_its_place_and_fused_there():
    """A network that says which region it was given: neighbours are mixed by their weights."""

    class Numbered(Network):
        def predict(self, latents, t, regions, ids, guided=True):
            super().predict(latents, t, regions, ids)
            for latent, region in zip(latents, regions, strict=True):
                assert latent.tolist() == region.crop(ramp)[0].div(2).tolist()
            return torch.stack([torch.full_like(latents[0], 1.0 + k) for k in ids])

    ramp = torch.arange(9 * 26, dtype=torch.float32).view(1, 1, 9, 26)
    schedule = Schedule(1)
    schedule.noised = lambda x0, noise, i: x0
    schedule.to_x0 = lambda output, sample, i: output
    (done,) = run(Numbered(), schedule, ramp, window=Size(9, 16), overlap=0.3, batch=2)
    left, right = (slow.weights(26, 16, [0, 10])[start] for start in (0, 10))
    expected = np.zeros(26)
    expected[:16] += left
    expected[10:] += 2 * right
    assert np.allclose(done.x0[0, 0], np.tile(expected, (9, 1)), atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "calls"),
    [
        (1, [[0], [1], [2], [3], [4]]),
        (2, [[0, 1], [2, 3], [4]]),
        (5, [[0, 1, 2, 3, 4]]),
        (9, [[0, 1, 2, 3, 4]]),
    ],
)
def test_batches(batch, calls):
    network, schedule = Network(), Schedule(1)
    z = torch.randn(1, 1, 4, 16, generator=torch.Generator().manual_seed(3))
    events = list(denoise(network, schedule, z, window=Size(4, 8), overlap=0.75, seed=0, batch=batch))
    assert network.calls == calls
    ends = [call[-1] + 1 for call in calls]
    assert events[:-1] == [RegionsDone(0, 1, end, 5) for end in ends]
    network = Network()
    list(denoise(network, Schedule(2), z, window=Size(4, 8), overlap=0.75, seed=0, batch=batch))
    assert network.calls == calls * 2  # a last batch that is not full makes none of the next step smaller


def test_an_output_for_every_region_is_asked_for():
    class Short(Network):
        def predict(self, latents, t, regions, ids, guided=True):
            return super().predict(latents, t, regions, ids)[:-1]

    options = {"window": Size(4, 8), "overlap": 0.5, "seed": 0, "batch": 3}
    with pytest.raises(ValueError):
        list(denoise(Short(), Schedule(1), torch.zeros(1, 1, 4, 16), **options))


def test_one_region_at_once_where_nothing_is_said():
    network = Network()
    list(denoise(network, Schedule(1), torch.zeros(1, 1, 4, 16), window=Size(4, 8), overlap=0.5, seed=0))
    assert network.calls == [[0], [1], [2]]


def test_regions_at_once_are_halved_until_the_memory_holds_them(monkeypatch):
    emptied = []
    monkeypatch.setattr("cupscale.method.memory.empty_cache", lambda: emptied.append(1))
    network, z = Network(most=1), torch.zeros(1, 1, 4, 16)
    options = {"window": Size(4, 8), "overlap": 0.75, "seed": 0, "batch": 9}
    events = list(denoise(network, Schedule(2), z, **options))
    assert [event.message for event in events if isinstance(event, Notice)] == [
        "out of memory: going on with 2 regions at once",
        "out of memory: going on with 1 region at once",
    ]
    assert emptied == [1, 1]
    assert network.calls == [[0], [1], [2], [3], [4]] * 2  # the second step does not try again
    assert [event.done for event in events if isinstance(event, RegionsDone)] == [1, 2, 3, 4, 5] * 2
    assert [event.step for event in events if isinstance(event, RegionsDone)] == [0] * 5 + [1] * 5


def test_where_one_region_does_not_fit_the_error_is_the_callers():
    with pytest.raises(torch.OutOfMemoryError):
        list(
            denoise(
                Network(most=0), Schedule(), torch.zeros(1, 1, 4, 16), window=Size(4, 8), overlap=0.5, seed=0
            )
        )


class Numbered:
    """Gives x0 itself, 1 + the place of a window in the plan, of which it takes `most` at once."""

    def __init__(self, most=100):
        self.tried, self.calls, self._most = [], [], most

    def predict(self, latents, t, regions, ids, guided=True):
        self.tried.append(len(regions))
        if len(regions) > self._most:
            raise torch.OutOfMemoryError("no room")
        self.calls.append(list(ids))
        return torch.stack([torch.full_like(latents[0], 1.0 + k) for k in ids])


def as_x0(steps):
    schedule = Schedule(steps)
    schedule.to_x0 = lambda output, sample, i: output
    return schedule


def fused(values):
    """A row of 16 cells of windows of 8, at 0, 2, 4, 6 and 8, each of which holds one value."""
    expected = np.zeros(16)
    for (start, weight), value in zip(slow.weights(16, 8, range(0, 9, 2)).items(), values, strict=True):
        expected[start : start + 8] += weight * value
    return expected


@pytest.mark.parametrize(
    ("most", "calls", "tried"),
    [(9, [[0, 1], [4]] * 2, [2, 1, 2, 1]), (1, [[0], [1], [4]] * 2, [2, 1, 1, 1, 1, 1, 1])],
)
def test_a_process_does_its_share_and_hears_of_the_rest(monkeypatch, most, calls, tried):
    """Five windows in batches of 2, 2 and 1; the second is another's, whatever memory this one has."""
    monkeypatch.setattr("cupscale.method.memory.empty_cache", lambda: None)
    asked, sizes_seen, given = [], [], []

    class Share:
        def own(self, batches):
            asked.append(batches)
            return [0, 2]

        def gather(self, own, sizes):
            sizes_seen.append(sizes)
            given.append([batch[:, 0, 0, 0].tolist() for batch in own])
            return [own[0], torch.full_like(own[0], 30.0), own[1]]

    network, z = Numbered(most), torch.zeros(1, 1, 4, 16)
    options = {"window": Size(4, 8), "overlap": 0.75, "batch": 2, "share": Share(), "placement": Still()}
    events = list(denoise(network, as_x0(2), z, seed=0, **options))
    assert network.calls == calls and network.tried == tried
    assert asked == [3, 3] and sizes_seen == [[2, 2, 1]] * 2 and given == [[[1, 2], [5]]] * 2
    done = [event for event in events if isinstance(event, RegionsDone)]
    assert done == [RegionsDone(i, 2, count, 3) for i in range(2) for count in (2, 3)]
    for event in events:
        if isinstance(event, StepDone):
            assert np.allclose(event.x0[0, 0], np.tile(fused([1, 2, 30, 30, 5]), (4, 1)), atol=1e-4)


class Still:
    """Windows that do not move."""

    def grids(self, canvas, window, overlap, steps, generator):
        return [even_grid(canvas, window, overlap)] * steps


def test_a_window_that_shows_nothing_is_z_l_and_asks_no_network():
    """Of 4 windows side by side the second and the last are flat; each of the others has its own place in the plan."""
    z, _ = latents()
    z = torch.cat((z, z, z), dim=-1)[..., :32]
    rich = torch.zeros(1, 1, 9, 32)
    rich[..., 5, 7] = rich[..., 0, 16] = 0.5
    network, options = Network(), {"window": Size(9, 8), "overlap": 0.0, "batch": 4}
    done = run(network, Schedule(2), z, flat=FlatPlaces(rich, z), **options)
    assert network.calls == [[0, 2]] * 2
    for event in done:
        for start, flat in ((0, False), (8, True), (16, False), (24, True)):
            part = slice(start, start + 8)
            same = torch.allclose(event.x0[..., part], z[..., part], atol=1e-5)
            assert same is flat


def test_where_every_window_shows_something_nothing_is_put_in():
    class Rich(FlatPlaces):
        latent = property(lambda self: pytest.fail("z_L was asked for"))

    z, _ = latents()
    plain, rich = (
        run(Network(), Schedule(2), z, flat=flat)[-1].x0 for flat in (None, Rich(torch.ones(1, 1, *CANVAS)))
    )
    assert torch.equal(plain, rich)


def test_where_no_window_shows_anything_no_process_is_asked():
    z, _ = latents()
    flat = FlatPlaces(torch.zeros(1, 1, *CANVAS), z)
    done = run(None, Schedule(2), z, flat=flat, share=object(), window=Size(5, 6))
    assert len(done) == 2 and all(torch.allclose(event.x0, z, atol=1e-5) for event in done)
