"""Each tiny model once per session, with ours loaded from the folder that transformers wrote."""

import pytest


@pytest.fixture(scope="session")
def pair(request, tmp_path_factory):
    """(torch model, our model, its folder) for the shape named by the parameter."""
    from lorajax.models.config import ModelConfig
    from lorajax.models.safetensors_folder import SafetensorsFolder
    from lorajax.models.weights import load_weights
    from tests.parity.models import torch_model

    theirs = torch_model(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    # 100 kB a shard: the larger ones come with an index.
    theirs.save_pretrained(folder, max_shard_size="100KB")
    ours = load_weights(SafetensorsFolder(folder), ModelConfig.read(folder / "config.json"))
    return theirs, ours, folder
