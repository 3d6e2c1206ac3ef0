"""What varies in rendered faces and how much: every distribution is a number you can read and change.

`Dials()` is the everyday world. A gap between training and test is made on purpose by `replace`: other hair styles,
lights from one side only, larger yaw, occluders never seen before. The dials are part of a set's identity.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fusiform.errors import ConfigError, did_you_mean

HAIR_STYLES = (
    "bald", "buzz", "short", "side-part", "quiff", "fringe", "curly", "afro", "bob", "long", "wavy", "ponytail",
    "bun", "locs",
)  # fmt: skip
HAIR_COLOURS = ("black", "dark-brown", "brown", "light-brown", "dark-blond", "blond", "red", "grey", "white", "dyed")
BACKGROUNDS = ("plain", "gradient", "bokeh", "blocks", "clouds", "room", "street")
LIGHTS = ("studio", "window", "overcast", "sun", "mixed", "back", "dim")
EXPRESSIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
"""AffectNet's eight classes in its order."""


@dataclass(frozen=True)
class Pose:
    """Head pose in degrees; yaw + to the subject's left, pitch + up, roll + clockwise for the viewer."""

    yaw: float = 24.0
    """Standard deviation of the everyday part."""
    wide_share: float = 0.25
    """Share of images whose yaw is uniform over the whole range instead."""
    yaw_range: tuple[float, float] = (-75.0, 75.0)
    pitch: float = 9.0
    pitch_range: tuple[float, float] = (-35.0, 35.0)
    roll: float = 7.0
    roll_range: tuple[float, float] = (-40.0, 40.0)


@dataclass(frozen=True)
class Light:
    kinds: tuple[str, ...] = LIGHTS
    """Which set-ups are drawn from, equally often; see `fusiform.render.light`."""
    contrast: tuple[float, float] = (0.3, 1.0)
    """Strength of the key light's shadows."""
    side: tuple[float, float] = (-80.0, 80.0)
    """Azimuth of the key light, + from the subject's left."""


@dataclass(frozen=True)
class Camera:
    fov: tuple[float, float] = (12.0, 34.0)
    """Vertical field of view in degrees: small is a long lens far away."""
    face: tuple[float, float] = (0.45, 0.75)
    """Height from chin to hairline as a share of the image side."""
    jitter: float = 0.05
    """Standard deviation of the face centre from the image centre, as a share of the side."""
    tall_margin: float = 0.06
    """How far below the middle the face sits on average."""


@dataclass(frozen=True)
class People:
    age: tuple[float, float] = (18.0, 88.0)
    age_within: float = 5.0
    """Largest deviation of an image from its person's age, in years."""
    tones: tuple[float, float] = (0.0, 9.0)
    """Range on the ten-step skin tone scale, 0 lightest."""
    hair_styles: tuple[str, ...] = HAIR_STYLES
    hair_colours: tuple[str, ...] = HAIR_COLOURS
    shape_spread: float = 1.0
    """Multiplies the variation of local features between people."""
    beards: float = 0.42
    """Share of masculine people who wear some beard."""
    glasses: float = 0.22
    makeup: float = 0.5
    """Share of feminine people who wear make-up at times."""


@dataclass(frozen=True)
class Expression:
    classes: tuple[str, ...] = EXPRESSIONS
    neutral: float = 0.25
    free: float = 0.12
    """Share of images with random single actions rather than a class."""
    strength: tuple[float, float] = (0.45, 1.15)
    blink: float = 0.04
    gaze: float = 9.0
    """Standard deviation of gaze in degrees relative to the head."""


@dataclass(frozen=True)
class Occluders:
    """Probabilities per image."""

    hand: float = 0.03
    mask: float = 0.02
    hat: float = 0.06
    scarf: float = 0.04
    headscarf: float = 0.02
    sunglasses: float = 0.04
    block: float = 0.0
    """A flat rectangle over a random part, as in occlusion studies."""


@dataclass(frozen=True)
class Film:
    """What the camera does to the picture. Probabilities, then ranges."""

    softness: tuple[float, float] = (0.35, 0.70)
    """Standard deviation in pixels of the lens and of the resampling that every stored photo has gone through."""
    blur: float = 0.25
    blur_radius: tuple[float, float] = (0.2, 0.9)
    """Standard deviation in pixels of a 112-pixel image."""
    motion: float = 0.06
    noise: tuple[float, float] = (0.0, 0.012)
    white_balance: float = 0.035
    exposure: float = 0.22
    """Standard deviation in stops."""
    grey: float = 0.05
    low_resolution: float = 0.10
    low_resolution_factor: tuple[float, float] = (1.5, 3.5)
    jpeg_quality: tuple[int, int] = (70, 97)


@dataclass(frozen=True)
class Dials:
    """All of it. Immutable; `dataclasses.replace` makes a variant."""

    pose: Pose = field(default_factory=Pose)
    light: Light = field(default_factory=Light)
    camera: Camera = field(default_factory=Camera)
    people: People = field(default_factory=People)
    expression: Expression = field(default_factory=Expression)
    occluders: Occluders = field(default_factory=Occluders)
    film: Film = field(default_factory=Film)
    backgrounds: tuple[str, ...] = BACKGROUNDS
    images_per_person: int = 4
    """Used by `render_set` to choose the number of people."""

    def __post_init__(self) -> None:
        for chosen, known, what in (
            (self.people.hair_styles, HAIR_STYLES, "hair style"),
            (self.people.hair_colours, HAIR_COLOURS, "hair colour"),
            (self.backgrounds, BACKGROUNDS, "background"),
            (self.light.kinds, LIGHTS, "light"),
            (self.expression.classes, EXPRESSIONS, "expression"),
        ):
            if not chosen:
                raise ConfigError(f"The list of {what}s is empty", expected=f"some of {', '.join(known)}")
            for name in chosen:
                if name not in known:
                    raise ConfigError(f"There is no {what} '{name}'", do=did_you_mean(name, known))
        if self.people.age[0] < 18:
            raise ConfigError(
                f"The age range starts at {self.people.age[0]:g}",
                expected="adults, 18 and over; there is no other kind of rendered person",
            )
