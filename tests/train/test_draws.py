from stages.train.step import draw_step
from tests.train.example import train_config
from tests.train.test_step import MASKING, SOURCE_ONLY, batch_of


def test_draws_depend_on_seed_and_iteration_alone() -> None:
    config, label = train_config(masking=MASKING), batch_of().source_label
    first, again = draw_step(config, label, 7), draw_step(config, label, 7)
    assert str(first) == str(again)
    assert str(first) != str(draw_step(config, label, 8))
    assert str(first) != str(draw_step(train_config(masking=MASKING, seed=1), label, 7))


def test_nothing_is_drawn_where_only_the_source_is_trained_on() -> None:
    label = batch_of().source_label
    assert draw_step(train_config(**SOURCE_ONLY), label, 9) is None
    waiting = train_config(self_training={"start": 3})
    assert [draw_step(waiting, label, i) is None for i in range(5)] == [True] * 3 + [False] * 2


def test_masked_images_are_drawn_only_for_masked_consistency() -> None:
    label = batch_of().source_label
    without, masking = (
        draw_step(train_config(), label, 0),
        draw_step(train_config(masking=MASKING), label, 0),
    )
    assert without is not None
    assert masking is not None
    assert (without.masked, without.blocks) == ([], None)
    assert masking.blocks is not None
    assert masking.blocks.shape == (2, 1, 4, 4)
    # one draw for each mixed image, one in all for the masked ones
    assert (len(masking.mixed), len(masking.masked)) == (2, 1)
    assert str(masking.mixed) == str(without.mixed)  # the arm with masking mixes alike
    assert masking.classes == without.classes
