from __future__ import annotations

from pathlib import Path

import pytest
from extractor.tf_import.sources import CALL, Signature, choose, read_folder
from extractor.tf_serving.protos import SavedModel
from shoal.errors import ImportInvalid

ANY = (None, None, None, 3)
SIMCLR = Signature(
    "default",
    {"images": ANY},
    {
        "block_group4": (None, None, None, 2048),
        "default": (None, 2048),
        "final_avg_pool": (None, 2048),
        "logits_sup": (None, 1000),
    },
)
BIGBIGAN = [
    Signature("default", {"x": (None, 256, 256, 3)}, {"default": (None, 120)}),
    Signature("discriminate", {"x": (None, 128, 128, 3), "z": (None, 120)}, {"score_x": (None,)}),
    Signature(
        "encode",
        {"x": (None, 256, 256, 3)},
        dict.fromkeys(("avepool_feat", "bn_crelu_feat", "default", "z_mean", "z_sample"), (None, 2048)),
    ),
    Signature("generate", {"z": (None, 120)}, {"default": (None, 128, 128, 3)}),
]


def test_simclr_gives_its_pooled_features() -> None:
    choice = choose([SIMCLR], None, None)
    assert (choice.signature, choice.input, choice.output, choice.size) == (
        "default",
        "images",
        "final_avg_pool",
        None,
    )


def test_bigbigan_gives_its_features_and_not_its_default_which_is_a_sample() -> None:
    choice = choose(BIGBIGAN, None, None)
    assert (choice.signature, choice.input, choice.output, choice.size) == ("encode", "x", "avepool_feat", 256)


def test_wishes_are_met() -> None:
    choice = choose(BIGBIGAN, "encode", "z_mean")
    assert (choice.signature, choice.output) == ("encode", "z_mean")
    assert choose([SIMCLR], None, "default").output == "default"


def test_a_call_comes_before_a_signature() -> None:
    signatures = [
        Signature("serving_default", {"x": ANY}, {"output_0": (None, 5)}),
        Signature(CALL, {"inputs": ANY}, {"final_avg_pool": (None, 5)}),
    ]
    assert choose(signatures, None, None).signature == CALL
    assert choose(signatures, "serving_default", None).output == "output_0"


def test_a_missing_signature_is_answered_with_those_there_are() -> None:
    with pytest.raises(ImportInvalid, match="default, discriminate, encode, generate") as caught:
        choose(BIGBIGAN, "encoder", None)
    assert caught.value.members["signatures"] == ["default", "discriminate", "encode", "generate"]


def test_a_missing_output_is_answered_with_those_there_are_and_their_shapes() -> None:
    with pytest.raises(ImportInvalid, match=r"no output 'avgpool'.*final_avg_pool \(N, 2048\)") as caught:
        choose([SIMCLR], None, "avgpool")
    assert "logits_sup" in caught.value.members["outputs"]


def test_when_none_stands_out_one_has_to_be_named() -> None:
    with pytest.raises(ImportInvalid, match=r"--signature.*first, second"):
        choose([Signature("first", {"x": ANY}, {}), Signature("second", {"x": ANY}, {})], None, None)
    with pytest.raises(ImportInvalid, match="--output"):
        choose([Signature("serving_default", {"x": ANY}, {"a": (None, 3), "b": (None, 4)})], None, None)


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("discriminate", "one input"),
        ("generate", "one input"),
    ],
)
def test_a_signature_that_takes_no_images_is_refused(signature: str, message: str) -> None:
    with pytest.raises(ImportInvalid, match=message):
        choose(BIGBIGAN, signature, None)


@pytest.mark.parametrize("name", ["is_training", "training", "trainable"])
def test_a_switch_for_training_is_known_by_its_name_and_type(name: str) -> None:
    inputs, outputs = {"images": ANY, name: ()}, {"embedding": (None, 5)}
    choice = choose([Signature("default", inputs, outputs, {name: "bool"})], None, None)
    assert (choice.input, choice.switches) == ("images", (name,))
    with pytest.raises(ImportInvalid, match="one input"):
        choose([Signature("default", inputs, outputs, {name: "float32"})], None, None)


def test_other_switches_are_not_guessed() -> None:
    signature = Signature("default", {"images": ANY, "flip": ()}, {"embedding": (None, 5)}, {"flip": "bool"})
    with pytest.raises(ImportInvalid, match="one input"):
        choose([signature], None, None)


def test_a_feature_map_is_no_embedding() -> None:
    with pytest.raises(ImportInvalid, match=r"\(N, N, N, 2048\)"):
        choose([SIMCLR], None, "block_group4")


def test_only_square_inputs() -> None:
    with pytest.raises(ImportInvalid, match="square"):
        choose([Signature("default", {"x": (None, 224, 192, 3)}, {"default": (None, 3)})], None, None)


def write(folder: Path, *tag_sets: tuple[str, ...], hub: bool = True) -> Path:
    folder.mkdir(parents=True)
    proto = SavedModel()
    for tags in tag_sets:
        proto.meta_graphs.add().meta_info_def.tags.extend(tags)
    (folder / "saved_model.pb").write_bytes(proto.SerializeToString())
    if hub:
        (folder / "tfhub_module.pb").write_bytes(b"\x08\x03")
    return folder


class TestFolders:
    def test_a_hub_module_is_known_by_its_file(self, tmp_path: Path) -> None:
        assert read_folder(write(tmp_path / "a", (), ("train",))).layout == "tf1-hub"
        assert read_folder(write(tmp_path / "b", ("serve",), hub=False)).layout == "tf1"

    def test_archives_keep_it_in_a_subfolder(self, tmp_path: Path) -> None:
        write(tmp_path / "ResNet50_1x" / "hub", ())
        assert read_folder(tmp_path / "ResNet50_1x").path.name == "hub"

    @pytest.mark.parametrize("kept", ["hub/7", "saved_model/12500", "7"])
    def test_exports_keep_it_in_a_folder_for_the_step(self, tmp_path: Path, kept: str) -> None:
        write(tmp_path / "run" / kept, ())
        assert read_folder(tmp_path / "run").path == tmp_path / "run" / kept

    def test_two_steps_are_not_guessed_between(self, tmp_path: Path) -> None:
        write(tmp_path / "hub" / "7", ())
        write(tmp_path / "hub" / "8", ())
        with pytest.raises(ImportInvalid, match="2 models, 7, 8"):
            read_folder(tmp_path / "hub")

    def test_two_of_them_are_not_guessed_between(self, tmp_path: Path) -> None:
        write(tmp_path / "hub", ())
        write(tmp_path / "saved_model", ())
        with pytest.raises(ImportInvalid, match="hub, saved_model"):
            read_folder(tmp_path)

    def test_a_folder_without_one_names_those_below(self, tmp_path: Path) -> None:
        write(tmp_path / "r50_1x_sk0", ())
        with pytest.raises(ImportInvalid, match=r"Did you mean .*r50_1x_sk0"):
            read_folder(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"not a protobuf at all"])
    def test_a_damaged_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "saved_model.pb").write_bytes(content)
        with pytest.raises(ImportInvalid, match=r"saved_model\.pb"):
            read_folder(tmp_path)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ImportInvalid, match="not a folder"):
            read_folder(tmp_path / "nothing")

    def test_the_graph_for_inference_is_taken(self, tmp_path: Path) -> None:
        found = read_folder(write(tmp_path / "a", ("train",), ("gpu", "serve"), ()))
        assert list(found.inference_graph().meta_info_def.tags) == []
        found = read_folder(write(tmp_path / "b", ("train",), ("gpu", "serve")))
        assert list(found.inference_graph().meta_info_def.tags) == ["gpu", "serve"]

    def test_a_graph_for_training_is_not(self, tmp_path: Path) -> None:
        with pytest.raises(ImportInvalid, match="inference"):
            read_folder(write(tmp_path / "a", ("train",), ("train", "tpu"))).inference_graph()
