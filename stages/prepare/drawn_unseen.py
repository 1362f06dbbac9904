"""Looks of targets that neither training nor the teacher's pretraining sees: fog and night."""

from dataclasses import replace

from stages.prepare.drawn_shapes import Material
from stages.prepare.drawn_style import DAY, DUSK

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
