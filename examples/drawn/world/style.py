"""Style of a drawn street: colours, textures, light, air and lens, by day and by dusk.

A style is a `Look`: a frozen table of ranges from which every image draws its own values.
`looks` knows the looks of all styles.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from examples.drawn.world.shapes import Material

Style = Literal["day", "dusk", "fog", "night", "wide"]
Texture = Literal["grain", "mottle", "leaf", "courses", "slabs", "wet"]
RGB = tuple[int, int, int]
Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Look:
    """Ranges of one style; amounts are fractions of full scale unless said otherwise."""

    palette: Mapping[Material, tuple[RGB, ...]]  # each thing picks one colour per material
    variety: float  # spread of each thing's colours around the palette
    textures: Mapping[Material, Mapping[Texture, float]]  # relative amplitudes
    glow: Mapping[Material, float]  # light that materials give off
    relief: Range  # power of the shading: 0 is flat light
    shadow: Range  # darkness of cast shadows
    clouds: Range  # how much cloud covers the sky
    haze: Range  # per kilometre
    blotches: Range  # strength of uneven light
    falloff: Range  # light lost from the top of the image to the bottom
    exposure: Range  # gain
    cast: tuple[Range, Range, Range]  # gain of red, green, blue
    contrast: Range  # gain around the mean
    blur: Range  # sigma, in hundredths of the image height
    noise: Range  # sigma per pixel


DAY = Look(
    palette={
        Material.SKY: ((98, 152, 222), (206, 224, 240), (246, 247, 250)),  # zenith, horizon, cloud
        Material.ASPHALT: ((104, 106, 112), (118, 118, 120), (92, 95, 102)),
        Material.MARKING: ((228, 228, 222),),
        Material.PAVING: ((176, 168, 158), (164, 160, 156), (186, 174, 160)),
        Material.KERB: ((198, 196, 190),),
        Material.WALL: (
            (168, 98, 78), (212, 196, 164), (176, 176, 178), (198, 166, 124), (222, 218, 208),
            (146, 166, 182), (206, 178, 100), (150, 112, 92), (178, 132, 120),
        ),
        Material.TRIM: ((120, 50, 46), (52, 84, 76), (214, 208, 196), (60, 76, 116), (96, 84, 76)),
        Material.ROOF: ((142, 78, 62), (96, 94, 100), (112, 84, 70)),
        Material.FRAME: ((230, 228, 222), (206, 200, 190)),
        Material.WINDOW: ((66, 84, 104), (82, 98, 116)),
        Material.LIT_WINDOW: ((132, 150, 168), (106, 122, 140)),
        Material.LEAF: ((86, 132, 52), (70, 116, 58), (106, 142, 56), (62, 104, 46)),
        Material.BARK: ((96, 76, 58), (84, 72, 62)),
        Material.METAL: ((92, 98, 100), (120, 124, 126), (64, 80, 74)),
        Material.LAMP: ((226, 228, 224),),
        Material.SIGN_RIM: ((206, 36, 38), (206, 36, 38), (36, 84, 186), (238, 236, 230)),
        Material.SIGN_FACE: ((244, 242, 236), (240, 196, 42), (52, 104, 204)),
        Material.SIGNAL: ((240, 52, 44), (70, 220, 120), (250, 180, 40)),
        Material.FENCE: (
            (158, 120, 80), (92, 118, 92), (226, 224, 216), (116, 92, 74), (130, 138, 142),
        ),
        Material.PAINT: (
            (178, 32, 34), (40, 72, 142), (232, 232, 232), (40, 42, 48), (172, 176, 180),
            (96, 102, 110), (46, 96, 76), (220, 174, 40), (120, 26, 44), (84, 142, 190),
        ),
        Material.GLASS: ((52, 66, 80), (66, 82, 96)),
        Material.RUBBER: ((34, 34, 38),),
        Material.HUB: ((160, 162, 166), (120, 122, 126)),
        Material.HEADLIGHT: ((244, 244, 236),),
        Material.TAILLIGHT: ((198, 24, 28),),
        Material.SKIN: ((226, 180, 150), (190, 138, 104), (130, 88, 64), (236, 198, 172)),
        Material.HAIR: ((48, 36, 30), (92, 62, 40), (160, 120, 72), (60, 60, 64)),
        Material.JACKET: (
            (196, 52, 48), (40, 66, 130), (44, 46, 52), (224, 178, 58), (70, 120, 88),
            (224, 220, 212), (140, 76, 132), (92, 132, 172),
        ),
        Material.TROUSERS: ((44, 52, 78), (58, 56, 58), (104, 92, 78), (36, 38, 44)),
        Material.TUBE: ((200, 40, 36), (30, 90, 170), (30, 32, 36), (40, 140, 96), (236, 236, 232)),
        Material.SPOKES: ((136, 138, 140),),
    },
    variety=0.08,
    textures={
        Material.ASPHALT: {"grain": 0.05, "mottle": 0.03},
        Material.PAVING: {"slabs": 0.08, "grain": 0.03},
        Material.WALL: {"courses": 0.07, "grain": 0.02},
        Material.ROOF: {"courses": 0.10},
        Material.LEAF: {"leaf": 0.22, "grain": 0.08},
    },
    glow={},
    relief=(0.9, 1.3),
    shadow=(0.30, 0.45),
    clouds=(0.2, 0.8),
    haze=(0.5, 2.5),
    blotches=(0.0, 0.06),
    falloff=(-0.05, 0.08),
    exposure=(0.86, 1.02),
    cast=((0.96, 1.02), (0.97, 1.01), (0.99, 1.06)),
    contrast=(0.98, 1.10),
    blur=(0.0, 0.15),
    noise=(0.005, 0.015),
)  # fmt: skip

DUSK = replace(
    DAY,
    palette={
        **DAY.palette,
        Material.SKY: ((150, 124, 190), (255, 176, 128), (206, 142, 150)),
        Material.ASPHALT: ((128, 112, 118), (108, 100, 116)),
        Material.MARKING: ((176, 168, 164),),
        Material.PAVING: ((122, 110, 116), (134, 124, 122)),
        Material.KERB: ((140, 132, 134),),
        Material.WALL: tuple(
            (120 + 2 * (r - 150) // 5, 104 + 2 * (g - 140) // 5, 112 + 2 * (b - 130) // 5)
            for r, g, b in DAY.palette[Material.WALL]
        ),
        Material.FRAME: ((128, 112, 112), (104, 92, 98)),
        Material.WINDOW: ((62, 56, 72), (78, 66, 78)),
        Material.LIT_WINDOW: ((250, 200, 116), (240, 176, 92)),
        Material.LEAF: ((92, 72, 56), (76, 76, 62), (110, 76, 52), (70, 62, 64)),
        Material.LAMP: ((255, 214, 140),),
        Material.HEADLIGHT: ((255, 240, 206),),
        Material.TAILLIGHT: ((255, 40, 36),),
    },
    variety=0.10,
    textures={
        Material.ASPHALT: {"wet": 0.20, "mottle": 0.10},
        Material.PAVING: {"mottle": 0.14, "wet": 0.06},
        Material.WALL: {"mottle": 0.12, "leaf": 0.05},
        Material.ROOF: {"mottle": 0.10},
        Material.LEAF: {"mottle": 0.22, "grain": 0.14},
        Material.PAINT: {"mottle": 0.10},
    },
    glow={
        Material.LIT_WINDOW: 0.35,
        Material.SKY: 0.08,
        Material.LAMP: 0.9,
        Material.HEADLIGHT: 0.9,
        Material.TAILLIGHT: 0.5,
        Material.SIGNAL: 0.5,
    },
    relief=(0.2, 0.5),
    shadow=(0.05, 0.15),
    clouds=(0.3, 0.9),
    haze=(3.0, 7.0),
    blotches=(0.08, 0.18),
    falloff=(0.15, 0.40),
    exposure=(0.42, 0.56),
    cast=((1.06, 1.22), (0.78, 0.88), (0.88, 1.08)),
    contrast=(0.66, 0.84),
    blur=(0.35, 0.70),
    noise=(0.014, 0.026),
)

# Targets that neither training nor the teacher's pretraining sees.

FOG = replace(
    DAY,
    palette={
        **DAY.palette,
        Material.SKY: ((186, 191, 196), (204, 207, 210), (196, 200, 204)),
        Material.ASPHALT: ((96, 100, 106), (88, 92, 98)),
        Material.PAVING: ((150, 148, 146), (142, 142, 142)),
        Material.LEAF: ((78, 104, 70), (70, 94, 70), (90, 110, 74)),
        Material.LAMP: ((250, 240, 214),),
        Material.HEADLIGHT: ((255, 250, 232),),
        Material.TAILLIGHT: ((236, 60, 54),),
    },
    textures={
        Material.ASPHALT: {"wet": 0.10, "mottle": 0.05},
        Material.PAVING: {"mottle": 0.08},
        Material.WALL: {"mottle": 0.06},
        Material.LEAF: {"mottle": 0.12, "grain": 0.05},
    },
    glow={Material.LAMP: 0.4, Material.HEADLIGHT: 0.6, Material.TAILLIGHT: 0.3},
    relief=(0.1, 0.4),
    shadow=(0.0, 0.05),
    clouds=(0.4, 0.9),
    haze=(30.0, 60.0),
    blotches=(0.02, 0.07),
    falloff=(-0.05, 0.10),
    exposure=(0.86, 1.00),
    cast=((0.96, 1.01), (0.98, 1.02), (1.00, 1.06)),
    contrast=(0.74, 0.90),
    blur=(0.20, 0.50),
    noise=(0.008, 0.018),
)

NIGHT = replace(
    DUSK,
    palette={
        **DUSK.palette,
        Material.SKY: ((16, 20, 44), (52, 50, 74), (40, 42, 62)),
        Material.ASPHALT: ((96, 94, 100), (84, 84, 92)),
        Material.PAVING: ((112, 106, 106), (120, 114, 110)),
        Material.MARKING: ((214, 208, 190),),
        Material.WINDOW: ((30, 32, 44), (40, 40, 52)),
        Material.LIT_WINDOW: ((255, 206, 120), (255, 226, 168), (214, 222, 255)),
        Material.LEAF: ((50, 62, 44), (44, 52, 44), (64, 66, 44)),
        Material.SIGNAL: ((255, 60, 50), (80, 255, 140), (255, 190, 50)),
    },
    glow={
        Material.LIT_WINDOW: 0.5,
        Material.LAMP: 1.0,
        Material.HEADLIGHT: 1.0,
        Material.TAILLIGHT: 0.7,
        Material.SIGNAL: 0.7,
        Material.SIGN_FACE: 0.12,  # they throw headlights back
        Material.MARKING: 0.10,
    },
    relief=(0.6, 1.0),
    shadow=(0.10, 0.25),
    clouds=(0.1, 0.6),
    haze=(1.0, 4.0),
    blotches=(0.15, 0.30),
    falloff=(-0.50, -0.20),  # headlights: what is near, and below, is lighter
    exposure=(0.26, 0.36),
    cast=((0.86, 0.98), (0.84, 0.94), (1.06, 1.24)),
    contrast=(0.95, 1.15),
    blur=(0.15, 0.45),
    noise=(0.020, 0.036),
)
