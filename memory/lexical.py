"""Words as a ranking sees them: stemmed, counted, weighted as BM25 weighs them, and hidden behind keyed ids."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

import snowballstemmer

TERM_SPACE = 999_999_999
"""Term ids are 1 … TERM_SPACE: what both an integer column and a sparse vector's index can hold."""

K1, B = 0.9, 0.4
TYPICAL_LENGTH = 14.0
"""Terms in a usual message. A constant in place of the user's own average, so that a stored weight stays right as
the store grows; recall is the same to the third digit."""

# Function words of questions and small talk. Those of other languages are indexed, and asked for by nobody.
FUNCTION_WORDS = """
a an the of in on at to and or for with by from is are was were be been being am it its this that these those as i you
he she they we me him her them us my your his their our do does did doing done have has had having will would could
should can may might what which who whom whose when where why how not no if then than so but about into over after before
up down out off just also there here some any all s t d ll m re ve don didn
"""
ENGLISH_STOP_WORDS = frozenset(FUNCTION_WORDS.split())

LANGUAGES = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish",
    "et": "estonian", "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian",
    "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian", "ne": "nepali", "nl": "dutch",
    "no": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish",
    "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}  # fmt: skip

# scripts written without spaces: kana, CJK ideographs, Thai, Lao, Khmer, Myanmar
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
PIECE = re.compile(rf"[{UNSPACED}]+|[^\W_{UNSPACED}]+")
SCRIPT_LANGUAGES = (
    (re.compile("[\u0370-\u03ff]"), "el"),
    (re.compile("[\u0400-\u04ff]"), "ru"),
    (re.compile("[\u0600-\u06ff]"), "ar"),
)
MARKS = str.maketrans({"’": "'", "‘": "'"})


@lru_cache(maxsize=len(LANGUAGES))
def _stemmer(language: str) -> "snowballstemmer.stemmer":
    return snowballstemmer.stemmer(LANGUAGES[language])


ENGLISH_STEMS: dict[str, str] = {}
"""Of usual words, put here by whoever has them with their stems (`associations.table`): stemming one takes 30 µs."""


def stem(word: str, language: str) -> str:
    known = ENGLISH_STEMS.get(word) if language == "en" else None
    return _stemmed(word, language) if known is None else known


@lru_cache(maxsize=50_000)
def _stemmed(word: str, language: str) -> str:
    spoken = language
    if not word.isascii():
        spoken = next((other for script, other in SCRIPT_LANGUAGES if script.search(word)), language)
    if spoken not in LANGUAGES or word.isdigit():
        return word
    return str(_stemmer(spoken).stemWord(word))


def terms(text: str, language: str = "en") -> Counter[str]:
    """Count the terms of a text: stems by the language (ISO 639-1), pairs of characters where no spaces are written."""
    counted: Counter[str] = Counter()
    for piece in PIECE.findall(text.lower().translate(MARKS)):
        if piece[0] >= "\u0e00" and re.match(rf"[{UNSPACED}]", piece):
            counted.update([piece] if len(piece) == 1 else [piece[i : i + 2] for i in range(len(piece) - 1)])
        elif piece not in ENGLISH_STOP_WORDS:
            counted[stem(piece, language)] += 1
    return counted


# Function words by which a language is told from English and from the others; words that English has too are left out.
_TELLING_WORDS = {
    "de": "ich du er sie wir ihr mein meine meinen meinem meiner dein deine der das den dem des und oder aber ist bin sind "
    "nicht kein keine mit von zu zum zur auf für bei aus dass auch noch schon sehr wie wann wo wer welche welcher welches "
    "ein eine einen einem einer hat habe haben wird im vom ja nein heute gestern",
    "es": "yo tú él ella nosotros el los las un una unos unas y o pero es soy eres son está estoy con del que por para se lo "
    "muy también mi mis tu tus su sus qué quién cómo cuándo dónde cuál en al desde hoy ayer ya",
    "fr": "je tu il elle nous vous ils le les un une et ou est suis sont dans pour pas avec sur mon ma mes ton tes son ses "
    "que qui où quand comment quel quelle du des au aux ne très aussi c'est j'ai",
    "it": "io lui lei noi il lo gli un una e o ma è sono con del della che per si molto anche mio mia miei suo sua chi come "
    "quando dove quale non di nel ho hai",
    "pt": "eu ele ela nós o os um uma e ou mas é sou são está com do da dos das que por para muito também meu minha meus "
    "seu sua quem como quando onde qual não em no na",
    "nl": "ik jij hij wij jullie het een en of maar niet geen met van voor naar ook nog mijn jouw zijn deze dit wie wat hoe "
    "wanneer waar welke heb heeft",
}
TELLING_WORDS = {name: frozenset(text.split()) for name, text in _TELLING_WORDS.items()}
ALL_FUNCTION_WORDS = frozenset().union(*TELLING_WORDS.values()) - {"of", "was", "die"}


def spoken(text: str) -> str:
    """The language of a text as its function words tell it: English unless two others, and more of them, say otherwise."""
    if "¿" in text or "¡" in text:
        return "es"
    said = set(PIECE.findall(text.lower().translate(MARKS)))
    found = {name: len(said & telling) for name, telling in TELLING_WORDS.items()}
    likeliest = max(found, key=lambda name: found[name])
    return likeliest if found[likeliest] >= 2 and found[likeliest] > len(said & ENGLISH_STOP_WORDS) else "en"


def seems_english(text: str) -> bool:
    """Whether what was made for English alone (associated words, the embedded embedder) says anything about a text."""
    if spoken(text) != "en":
        return False
    return text.isascii() or not ENGLISH_STOP_WORDS.isdisjoint(PIECE.findall(text.lower().translate(MARKS)))


def indexed(text: str, language: str = "en") -> Counter[str]:
    """The terms by which a text is to be found: as `terms`, by the language that it is written in."""
    return terms(text, spoken(text) if language == "en" else language)


@lru_cache(maxsize=len(LANGUAGES))
def _function_stems(language: str) -> frozenset[str]:
    return ALL_FUNCTION_WORDS | {stem(word, by) for word in ALL_FUNCTION_WORDS for by in ("en", language)}


def asked(text: str, language: str = "en") -> Counter[str]:
    """The terms of a question: as `indexed`, and those of English too, since a short text doesn't say what it is.

    Function words of other languages ask for nothing, unless nothing else is there.
    """
    own = spoken(text) if language == "en" else language
    counted = terms(text, "en")
    if own == "en":
        return counted
    counted |= terms(text, own)
    function = _function_stems(own)
    telling = Counter({term: number for term, number in counted.items() if term not in function})
    return telling or counted


def term_id(term: str, key: bytes) -> int:
    """A term's id within one user's memories, by the user's key (`vault.index_key`): the same word of two users has
    nothing in common, and who has the table alone can't test words."""
    digest = hashlib.blake2b(term.encode(), key=key, digest_size=8).digest()
    return int.from_bytes(digest) % TERM_SPACE + 1


def weights(counted: Mapping[str, int]) -> dict[str, float]:
    """Each term's share of a message's BM25 score, still to be multiplied by the term's IDF."""
    length = K1 * (1 - B + B * sum(counted.values()) / TYPICAL_LENGTH)
    return {term: count * (K1 + 1) / (count + length) for term, count in counted.items()}
