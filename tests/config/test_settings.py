"""Settings: where they come from, which win, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from upscaled.config.settings import Config, warnings
from upscaled.config.sources import load
from upscaled.config.table import Setting, settings
from upscaled.config.types import Tokens
from upscaled.errors import ConfigError

ALL = list(settings())
HASH = "sha256:" + 64 * "0"
WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAA=="
OTHER_TEXTS = {"webhooks.secret": WEBHOOK_SECRET, "cluster.name": "other"}
OTHER_LISTS: dict[str, tuple[object, ...]] = {
    "server.tokens": (("laptop", HASH), ("phone", HASH)),
    "server.cors_origins": ("https://photos.example",),
    "server.trusted_proxies": ("10.0.0.0/8", "::1"),
    "server.allowed_hosts": ("photos.example", "*.photos.example"),
    "features.input_formats": ("png", "jpeg"),
    "outgoing.allow": ("n8n.lan", "10.0.0.0/8", "::1"),
    "outgoing.ports": (443, 5678),
    "webhooks.secrets": (
        ("laptop", WEBHOOK_SECRET),
        ("phone", f"{WEBHOOK_SECRET} {WEBHOOK_SECRET}"),
    ),
    "webhooks.retry_seconds": (1, 60),
}


def names(setting: Setting) -> str:
    """Name a parametrised setting in the test's id."""
    return setting.name


def written(folder: Path, text: str) -> Path:
    """Write a configuration file and return its path."""
    path = folder / "config.yaml"
    path.write_text(text, "utf-8")
    return path


def other_value(setting: Setting) -> object:
    """Return an allowed value that is not the default."""
    rule, default = setting.rule, setting.default
    if rule.choices:
        return next(choice for choice in rule.choices if choice != default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        candidates = [default + 1, default - 1, 64]
        return next(c for c in candidates if rule.complaint(type(default)(c)) is None)
    if isinstance(default, tuple):
        return OTHER_LISTS.get(setting.name, (0, 1))
    return OTHER_TEXTS.get(setting.name, "/other")


def value_of(config: Config, setting: Setting) -> object:
    """Read one setting."""
    return getattr(getattr(config, setting.section), setting.key)


def test_without_a_file_every_setting_has_its_default() -> None:
    config = load(environ={})
    for setting in ALL:
        assert value_of(config, setting) == setting.default


@pytest.mark.parametrize("setting", ALL, ids=names)
def test_every_default_is_itself_allowed(setting: Setting) -> None:
    assert setting.rule.complaint(setting.default) is None


@pytest.mark.parametrize("setting", ALL, ids=names)
def test_every_key_can_be_set_in_the_file(setting: Setting, tmp_path: Path) -> None:
    value = other_value(setting)
    plain: object = list(value) if isinstance(value, tuple) else value
    if setting.type == Tokens:
        assert isinstance(value, tuple)
        plain = dict(value)
    file = written(tmp_path, yaml.safe_dump({setting.section: {setting.key: plain}}))
    assert value_of(load(file, environ={}), setting) == value


@pytest.mark.parametrize("setting", ALL, ids=names)
def test_every_key_can_be_set_in_the_environment(setting: Setting) -> None:
    value = other_value(setting)
    texts = (
        ["=".join(v) if isinstance(v, tuple) else str(v) for v in value]
        if isinstance(value, tuple)
        else []
    )
    text = ",".join(texts) or (str(value).lower() if isinstance(value, bool) else str(value))
    assert value_of(load(environ={setting.env: text}), setting) == value


@pytest.mark.parametrize("setting", [s for s in ALL if s.former], ids=names)
def test_a_former_name_still_counts(setting: Setting, tmp_path: Path) -> None:
    former, value = setting.former, other_value(setting)
    assert former is not None
    file = written(tmp_path, yaml.safe_dump({setting.section: {former.key: value}}))
    assert value_of(load(file, environ={}), setting) == value
    assert value_of(load(environ={former.env: str(value)}), setting) == value
    # By its new name it may be anywhere that overrides the former one.
    both = load(file, environ={setting.env: str(setting.default)})
    assert value_of(both, setting) == setting.default
    with pytest.raises(ConfigError, match=rf"{setting.name} is 'x'"):
        load(environ={former.env: "x"})


def test_a_setting_by_both_its_names_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "upscaler: {max_attempts: 5, max_crashes: 6}")
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    assert caught.value.message == (
        f"{file}: upscaler has max_crashes and max_attempts, which is the former name of the same "
        "setting; delete one of them."
    )
    variables = {f"UPSCALED_UPSCALER_MAX_{what}": "5" for what in ("CRASHES", "ATTEMPTS")}
    with pytest.raises(ConfigError, match=r"^The environment has .*; delete one of them\.$"):
        load(environ=variables)


@pytest.mark.parametrize("setting", ALL, ids=names)
def test_a_wrong_type_names_key_value_and_what_is_allowed(setting: Setting, tmp_path: Path) -> None:
    wrong = {"un": "likely"}
    file = written(tmp_path, yaml.safe_dump({setting.section: {setting.key: wrong}}))
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    message = caught.value.message
    assert setting.name in message
    assert repr(wrong) in message
    assert "; it must be " in message
    assert "\n" not in message


@pytest.mark.parametrize("setting", [s for s in ALL if s.type is not str], ids=names)
def test_a_wrong_environment_value_names_the_variable(setting: Setting) -> None:
    with pytest.raises(ConfigError, match=f"{setting.env}: {setting.name} is .?'per haps'"):
        load(environ={setting.env: "per haps"})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("server: {port: 70000}", "server.port is 70000; it must be between 0 and 65535."),
        ("server: {port: true}", "server.port is True; it must be a whole number."),
        ("server: {port: '80'}", "server.port is '80'; it must be a whole number."),
        ("server: {port: null}", "server.port is None; it must be a whole number."),
        ("server: {api_prefix: api/}", "server.api_prefix is 'api/'; it must be a path"),
        ("server: {api_prefix: /}", "server.api_prefix is '/'; it must be a path"),
        ("server: {public_url: photos.example}", "server.public_url is 'photos.example'; it must"),
        ("server: {public_url: //photos}", "server.public_url is '//photos'; it must be an addr"),
        ("upscaler: {engine: gpu}", "upscaler.engine is 'gpu'; it must be one of auto, binary"),
        ("upscaler: {gpu_ids: [a]}", "upscaler.gpu_ids is ['a']; it must be a list of whole"),
        ("upscaler: {gpu_ids: [-2]}", "upscaler.gpu_ids is [-2]; it must be a list of indices"),
        ("server: {tokens: {a: b}}", "server.tokens is {'a': 'b'}; it must be a name of let"),
        ("server: {tokens: [a]}", "server.tokens is ['a']; it must be names with values, such as"),
        ("server: {auth_token: 'sha256:1'}", "server.auth_token is 'sha256:1'; it must be a sec"),
        ("server: {cors_origins: ['*']}", "server.cors_origins is ['*']; it must be a list of or"),
        ("server: {trusted_proxies: [x]}", "server.trusted_proxies is ['x']; it must be a list"),
        ("features: {input_formats: [gif]}", "is ['gif']; it must be a list of one or more of png"),
        ("upscaler: {tile_size: 31}", "upscaler.tile_size is 31; it must be 0 (automatic) or bet"),
        (
            "upscaler: {default_scale: 5}",
            "upscaler.default_scale is 5; it must be between 2 and 4.",
        ),
        ("storage: {result_ttl_hours: .inf}", "storage.result_ttl_hours is inf; it must be"),
        ("storage: {result_ttl_hours: .nan}", "storage.result_ttl_hours is nan; it must be"),
        ("storage: {result_ttl_hours: 0}", "storage.result_ttl_hours is 0.0; it must be 0.001"),
        ("server: {prot: 1}", "there is no key server.prot; the keys are host, port"),
        ("sever: {port: 1}", "there is no section 'sever'; the sections are server, upscaler"),
        ("server: 8089", "section server is 8089; it must have keys and values."),
        ("- server", "expected sections such as `server:`"),
        ("server: {port: 1", "line 1 is not valid YAML."),
        ("a: \x00", "is not valid YAML."),
    ],
)
def test_a_mistake_in_the_file_gets_its_sentence(text: str, told: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    assert told in caught.value.message
    assert str(file) in caught.value.message


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load(tmp_path / "none.yaml", environ={})


def test_a_folder_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        load(tmp_path, environ={})


def test_an_unknown_variable_is_an_error() -> None:
    with pytest.raises(ConfigError, match="UPSCALED_SERVER_PROT"):
        load(environ={"UPSCALED_SERVER_PROT": "1"})


@pytest.mark.parametrize("text", ["", "# nothing\n", "server:\n"])
def test_an_empty_file_or_section_leaves_the_defaults(text: str, tmp_path: Path) -> None:
    assert load(written(tmp_path, text), environ={}).server.port == 8089


def test_flag_wins_over_environment_over_file(tmp_path: Path) -> None:
    file = written(tmp_path, "server: {port: 1, host: 10.0.0.1}\nstorage: {data_dir: file}")
    environ = {"UPSCALED_SERVER_PORT": "2", "UPSCALED_SERVER_HOST": "10.0.0.2"}
    config = load(file, environ=environ, flags={"server.port": "3"})
    assert config.server.port == 3
    assert config.server.host == "10.0.0.2"
    assert config.storage.data_dir == "file"


def test_a_wrong_flag_is_named_as_it_was_typed() -> None:
    with pytest.raises(ConfigError, match=r"--port: server\.port is 'eighty'"):
        load(environ={}, flags={"server.port": "eighty"})


@pytest.mark.parametrize("text", ["0,1", "[0, 1]", " 0 , 1 "])
def test_a_list_in_the_environment_is_written_with_commas(text: str) -> None:
    assert load(environ={"UPSCALED_UPSCALER_GPU_IDS": text}).upscaler.gpu_ids == (0, 1)


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    config = load(written(tmp_path, "storage: {data_dir: here}"), environ={})
    assert config.data_dir == tmp_path.resolve() / "here"
    assert config.models_dir == tmp_path.resolve() / "models"


def test_a_path_may_start_with_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load(environ={"UPSCALED_STORAGE_DATA_DIR": "~/kept"})
    assert config.data_dir == tmp_path.resolve() / "kept"


@pytest.mark.parametrize(
    ("host", "token", "warned"),
    [
        ("127.0.0.1", "", False),
        ("127.1.2.3", "", False),
        ("localhost", "", False),
        ("::1", "", False),
        ("0.0.0.0", "", True),
        ("::", "", True),
        ("192.168.0.4", "", True),
        ("0.0.0.0", "secret", False),
    ],
)
def test_listening_to_others_without_a_token_is_warned_of(
    host: str, token: str, warned: bool
) -> None:
    environ = {"UPSCALED_SERVER_HOST": host, "UPSCALED_SERVER_AUTH_TOKEN": token}
    assert bool(warnings(load(environ=environ))) is warned


@pytest.mark.parametrize(
    "between", ["", "    # the laptop in the kitchen\n", "\n", "  # More secrets.\n"]
)
def test_a_tokens_line_below_the_empty_mapping_counts(tmp_path: Path, between: str) -> None:
    hash_ = "sha256:" + "a" * 64
    file = tmp_path / "config.yaml"
    file.write_text(
        f"server:\n  tokens: {{}}  # none\n{between}    laptop: {hash_}\n  port: 9000\n"
    )
    config = load(file, environ={})
    assert config.server.tokens == (("laptop", hash_),)
    assert config.server.port == 9000


def test_an_empty_mapping_above_the_next_key_stays_empty(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("server:\n  tokens: {}\n\n  # Web pages\n  port: 9000\nstorage: {}\n")
    config = load(file, environ={})
    assert config.server.tokens == ()
    assert config.server.port == 9000


def test_a_file_that_only_root_may_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.touch()

    def refused(*_args: object, **_kwargs: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(ConfigError, match=r"run the command as root \(sudo\)"):
        load(file, environ={})
