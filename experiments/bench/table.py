"""The figures of the benchmark as a table: grouped by part, each with an explanation."""

from typing import Any

from experiments.pages.words import duration

# Headings of the groups; {names} are those of `Workload.shapes`.
VECTORS = {
    "fit": "fit: a world model of CartPole",
    "dream": "dream: its environment, stepped through Gymnasium",
    "search": "search: tree search in it, by the number of states searched at once",
    "one_step": "one_step: every action and outcome once, by the same number",
    "rehearse": "rehearse: dream, search, distil",
}
IMAGES = {
    "search": "search: {searches} latents at once, {num_simulations} simulations each",
    "learn": "learn: batches of {batch} windows, {unroll_steps} steps each",
    "update": "update: its parts, compiled and timed one by one",
    "refresh": "refresh: new targets for {capacity} stored states, {refresh_batch} at once",
    "act": "act: {envs} environments at once: encode, search, choose",
    "dream": "dream: {dreams} at once, latent, without a tree",
    "env": "env: {envs} real environments (Catch), host only",
    "predict": "predict: one game at these rates, without the emulator's own time",
}
# Explanations of figures whose names are not enough.
WORDS = {
    "searches_per_s": "states looked ahead from",
    "simulations_per_s": "steps of the model inside these searches",
    "one_device_searches_per_s": "the same on one device",
    "speedup": "all devices against one",
    "ceiling_searches_per_s": "the same inferences without a tree",
    "share_of_ceiling": "what the tree leaves of that",
    "mflops_per_search": "million multiplications and additions",
    "flops_per_s": "counted operations per second",
    "mfu": "of the device's measured peak",
    "compile_s": "longer the first time, with no cache",
    "updates_per_s": "steps of the optimiser",
    "samples_per_s": "windows learned from",
    "update_ms": "one update",
    "gflops_per_update": "thousand million operations",
    "sample_ms": "draw, stack, look targets up",
    "forward_backward_ms": "augment, loss and gradient",
    "optimiser_ms": "from gradient to params",
    "priorities_ms": "back into the ring",
    "parts_over_whole": "sum of the parts / one update in one program",
    "states_per_s": "states encoded and searched",
    "decisions_per_s": "steps of environments",
    "steps_per_s": "steps",
    "minutes_per_game": "all of it, one after the other",
    "learn_minutes": "updates",
    "refresh_minutes": "refreshes of all that is stored",
    "act_minutes": "searches while playing",
    "peak_flops_per_s": "large matrix products, the best of several",
    "peak_memory_mb": "the most that was held",
    "single_step_us": "microseconds of one dream's step",
    "iterations_per_s": "iterations",
}
WIDTH = 34  # of the column of names


def table(result: dict[str, Any]) -> str:
    """The table for a `result` of `dreaming benchmark`: figures, shapes and machine."""
    figures, machine = result["figures"], result["machine"]
    vectors = {k: v for k, v in figures.items() if not k.startswith(("images/", "device/"))}
    images = {k[7:]: v for k, v in figures.items() if k.startswith("images/")}
    lines = ["", f"{machine['cores']} cores, devices {', '.join(machine['devices'])}"]
    device = {k: v for k, v in figures.items() if k.startswith("device/")}
    lines += [_line(name, device[name]) for name in device]
    if "peak_memory_mb" in vectors:
        lines.append(_line("peak_memory_mb", vectors.pop("peak_memory_mb")))
    if vectors:
        lines += ["", "VECTORS: the main job on CartPole", *_groups(vectors, VECTORS)]
    if images:
        shapes = result["images"]
        lines += ["", _shape(shapes)]
        lines += _groups(images, {k: v.format(**shapes) for k, v in IMAGES.items()})
        lines += ["", in_short(images)]
    return "\n".join(lines)


def _shape(shapes: dict[str, Any]) -> str:
    frame = "x".join(map(str, shapes["frame"]))
    return (
        f"IMAGES: EfficientZero online, {shapes['size']} networks, {shapes['window']} frames of "
        f"{frame}, {shapes['num_actions']} actions, {shapes['compute']}"
    )


def in_short(images: dict[str, float]) -> str:
    """The figures of `part=images` in two sentences."""
    seconds = 60 * images["predict/minutes_per_game"]
    return (
        f"In short: {images['learn/updates_per_s']:.3g} updates and "
        f"{images['search/searches_per_s']:,.0f} searches per second; a game of Atari-100k would "
        f"take about {duration(seconds)}.\n"
        f"Learning reaches {100 * images['learn/mfu']:.1f} % of what large matrix products reach "
        f"here, search {100 * images['search/mfu']:.1f} %."
    )


def _groups(figures: dict[str, float], headings: dict[str, str]) -> list[str]:
    """The figures of each group below its heading, in the order of the headings."""
    lines = []
    for group, heading in headings.items():
        mine = {k: v for k, v in figures.items() if k.partition("/")[0] == group}
        lines += [heading, *(_line(name, value) for name, value in mine.items())] if mine else []
    return lines


def _line(name: str, value: float) -> str:
    short = name.rpartition("/")[2]
    known = short.partition("_of_")[0] if short not in WORDS else short
    return f"  {name:<{WIDTH}}{shown(short, value):>10}  {WORDS.get(known, '')}".rstrip()


def shown(name: str, value: float) -> str:
    """A figure for a reader: shares in per cent, operations in units of a thousand million."""
    if name in ("mfu", "share_of_ceiling") or name.endswith("_share"):
        return f"{100 * value:.1f} %"
    if name.endswith("flops_per_s"):
        return f"{value / 1e9:,.4g} G"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
