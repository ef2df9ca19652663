"""Recipes: strict, helpful, and the same when written and read again."""

import pytest

from tesserec.errors import ConfigError
from tesserec.models.sparc import SparcConfig
from tesserec.training.recipe import load_recipe, to_toml


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("interests = 3\n[training]\nepochs = 17\nlearning_rate = 0.5\n")
    config = load_recipe(SparcConfig, path, ["training.epochs=19", "merge=max"])
    assert (config.interests, config.training.epochs, config.training.learning_rate) == (3, 19, 0.5)
    assert (config.merge, config.codebook) == ("max", SparcConfig().codebook)


def test_a_written_recipe_reads_the_same(tmp_path):
    config = load_recipe(SparcConfig, None, ["codebook.codes=32", "features=true", "temperature=0.05"])
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(config))
    assert load_recipe(SparcConfig, path) == config


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["training.epoch=3"], "unknown setting 'training.epoch'; did you mean 'training.epochs'"),
        (["patiense=3"], "unknown setting 'patiense'; did you mean 'training.patience'"),
        (["zzz=3"], "unknown setting 'zzz'; known keys: .*codebook.codes"),
        (["training.epochs=-1"], "training.epochs = -1 is refused"),
        (["training.epochs=many"], "training.epochs = 'many' is refused"),
        (["training.epochs=5"], "^warmup_epochs = 18 leaves none"),
        (["training.epochs"], "not of the form key=value"),
        (["features.colour=1"], "unknown setting 'features.colour'"),
        (["interests=3", "interests.x=1"], "'interests' is a setting, not a group"),
    ],
)
def test_what_is_wrong_is_named(sets, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(SparcConfig, None, sets)


def test_broken_and_missing_files_are_named(tmp_path):
    path = tmp_path / "recipe.toml"
    with pytest.raises(ConfigError, match=r"recipe\.toml does not exist"):
        load_recipe(SparcConfig, path)
    path.write_text("a = = 3")
    with pytest.raises(ConfigError, match=r"recipe\.toml is not valid TOML"):
        load_recipe(SparcConfig, path)
