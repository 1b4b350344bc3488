"""Drawn pictures with known labels: the embedded data of classification and segmentation.

Everything is a signed distance to a shape in coordinates that are shifted, turned and stretched per picture, so a whole
batch is drawn at once. Source: ssmo specification, sections 5.1 and 5.4.
"""

import numpy as np

GLYPHS = ("disc", "ring", "square", "frame", "triangle", "cross", "bar", "two_bars", "saltire", "arc")
SCENE_CLASSES = ("background", "disc", "square", "triangle", "cross")
PALETTE = np.array([[0.9, 0.2, 0.2], [0.2, 0.8, 0.2], [0.2, 0.3, 0.9], [0.9, 0.8, 0.1]])  # of the four shapes


def draw_glyphs(label: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """(N, 1, size, size) float32 grey pictures in [0, 1] of the ten `GLYPHS`.

    Position, size, angle (up to 20°), stroke, contrast and noise vary.

    Args:
        label: (N,) int64 numbers of glyphs.
    """
    count = len(label)
    x, y = _grid(size, count, rng, shift=0.3, scale=(0.55, 0.85), turn=np.pi / 9)
    stroke = rng.uniform(0.12, 0.22, (count, 1, 1))
    distance = np.empty((count, size, size))
    for number, name in enumerate(GLYPHS):
        rows = label == number
        distance[rows] = _glyph(name, x[rows], y[rows], stroke[rows])
    coverage = np.clip(0.5 - distance * size / 4, 0, 1)
    low = rng.uniform(0.0, 0.3, (count, 1, 1))
    high = rng.uniform(0.7, 1.0, (count, 1, 1))
    picture = low + (high - low) * coverage + rng.normal(0, 0.07, coverage.shape)
    return np.clip(picture, 0, 1)[:, None].astype(np.float32)


def _grid(
    size: int, count: int, rng: np.random.Generator, shift: float, scale: tuple[float, float], turn: float
) -> tuple[np.ndarray, np.ndarray]:
    """(N, size, size) coordinates of the pixels in the frame of a shape that spans about [-1, 1]."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    column, row = np.meshgrid(axis, axis)
    middle = rng.uniform(-shift, shift, (2, count, 1, 1))
    stretch = rng.uniform(*scale, (count, 1, 1))
    angle = rng.uniform(-turn, turn, (count, 1, 1))
    u, v = (column - middle[0]) / stretch, (row - middle[1]) / stretch
    return u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)


def _glyph(name: str, x: np.ndarray, y: np.ndarray, stroke: np.ndarray) -> np.ndarray:
    """Signed distance, negative inside."""
    radius, box = np.hypot(x, y), np.maximum(abs(x), abs(y))
    if name == "disc":
        return radius - 0.8
    if name == "ring":
        return abs(radius - 0.75) - stroke
    if name == "square":
        return box - 0.75
    if name == "frame":
        return abs(box - 0.75) - stroke
    if name == "triangle":
        return np.maximum(abs(x) * 0.87 + (y - 0.75) * 0.5, -0.6 - y)
    if name == "cross":
        return np.minimum(_bar(x, y, stroke), _bar(y, x, stroke))
    if name == "bar":
        return _bar(x, y, stroke * 1.5)
    if name == "two_bars":
        return np.minimum(_bar(x, y - 0.5, stroke), _bar(x, y + 0.5, stroke))
    if name == "saltire":
        u, v = (x + y) * 0.7071, (x - y) * 0.7071
        return np.minimum(_bar(u, v, stroke), _bar(v, u, stroke))
    return np.maximum(abs(radius - 0.75) - stroke, y)


def _bar(along: np.ndarray, across: np.ndarray, stroke: np.ndarray) -> np.ndarray:
    return np.maximum(abs(along) - 0.9, abs(across) - stroke)


def draw_scenes(count: int, size: int, border: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Colour pictures of two to four overlapping shapes on a textured ground, and the class of every pixel.

    A shape's colour is half that of its class, half random, so that both colour and shape tell something; the ground
    is grey.

    Args:
        border: labels of pixels beside another class are 255, as in hand-drawn label maps.

    Returns:
        (N, 3, size, size) float32 in [0, 1] and (N, size, size) uint8 numbers of `SCENE_CLASSES`.
    """
    picture = _texture(np.repeat(rng.uniform(0.2, 0.8, (count, 1)), 3, 1), size, rng)
    label = np.zeros((count, size, size), np.uint8)
    num_shapes = rng.integers(2, 5, count)
    for layer in range(4):
        kind = rng.integers(1, len(SCENE_CLASSES), count)
        x, y = _grid(size, count, rng, shift=0.65, scale=(0.3, 0.6), turn=np.pi)
        distance = np.empty((count, size, size))
        for number, name in enumerate(SCENE_CLASSES[1:], 1):
            rows = kind == number
            distance[rows] = _glyph(name, x[rows], y[rows], np.full((rows.sum(), 1, 1), 0.28))
        distance[num_shapes <= layer] = np.inf
        coverage = np.clip(0.5 - distance * size / 6, 0, 1)[:, None]
        color = (PALETTE[kind - 1] + rng.uniform(0.15, 0.85, (count, 3))) / 2
        picture += (_texture(color, size, rng) - picture) * coverage
        label = np.where(distance < 0, kind[:, None, None], label).astype(np.uint8)
    picture += rng.normal(0, 0.05, picture.shape)
    if border:
        label[_beside_another(label)] = 255
    return np.clip(picture, 0, 1).astype(np.float32), label


def _texture(color: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """(N, 3, size, size) of colours (N, 3), with waves of a random direction and length."""
    count = len(color)
    axis = np.arange(size) / size
    frequency = rng.uniform(-8, 8, (2, count, 1, 1))
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    waves = np.sin(2 * np.pi * (frequency[0] * axis[:, None] + frequency[1] * axis) + phase)
    return color[:, :, None, None] + 0.1 * waves[:, None]


def _beside_another(label: np.ndarray) -> np.ndarray:
    """Bool: whether one of the four neighbours has another label."""
    differs = np.zeros(label.shape, bool)
    down, right = label[:, 1:] != label[:, :-1], label[:, :, 1:] != label[:, :, :-1]
    differs[:, 1:] |= down
    differs[:, :-1] |= down
    differs[:, :, 1:] |= right
    differs[:, :, :-1] |= right
    return differs
