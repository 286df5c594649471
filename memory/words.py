"""What two sentences have in common: their content words, their names, and whether they deny what they name.

By rule, for English, German, Spanish and French, and cautiously for the rest: where a word list does not reach, fewer
words match, and the claim that needed them is refused.
"""

import re
from functools import lru_cache

from memory import lexical

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'"})
_UNSPACED = re.compile(f"[{lexical.UNSPACED}]")

# how a claim names the two who talk
_SUBJECTS_TEXT = """
user users companion companions nutzer nutzerin nutzers benutzer benutzerin begleiter begleiterin usuario usuaria
compañero compañera utilisateur utilisatrice compagnon compagne l'utilisateur l'utilisatrice utente compagno
compagna usuário usuária companheiro companheira gebruiker пользователь пользователя пользователю собеседник
собеседница they their she he her his user's companion's users' companions'
"""
SUBJECTS = frozenset(_SUBJECTS_TEXT.split())
_UNSPACED_SUBJECTS = re.compile("用户|使用者|同伴|伙伴|ユーザー|コンパニオン|相棒|사용자")
# function words of the languages that have none in memory.lexical
_FUNCTION_WORDS_TEXT = """
the a an ich du er sie es wir ihr mein meine meinen meinem meiner dein sein seine seinen seinem ihre ihren der die
das den dem des ein eine einen einem einer und oder aber ist bin bist sind war waren hat habe haben hatte wird werde
werden mit von zu zum zur im in am auf für bei nach aus dass auch noch schon sehr yo tú él ella nosotros mi mis su
sus tu tus el la los las un una unos unas y o pero soy eres somos son era fue está estoy están ha he han tiene tengo
con de del al en por para que se me le lo muy también ya je j il elle nous vous mon ma mes ton ta tes sa ses les l
une d au aux et ou mais est suis sommes sont était ai as avons ont avec dans par pour qui s m très aussi déjà c ce
cette и в на с у о к по из за что это как я он она мы они мой моя моё мои его её их был была есть has have had is
are was were be been being do does did will would can could now just really also very got get
"""
_FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_TEXT.split())
_DENIALS = re.compile(
    r"\b(?:not|no|never|none|nor|neither|without|cannot|nobody|nothing|\w+n't|hate|hates|hated|dislike|dislikes|"
    r"disliked|"
    r"detest|detests|avoid|avoids|quit|quits|stopped|former|formerly|"
    r"nicht|nichts|kein\w*|nie|niemals|ohne|hasst|hasse|nunca|jamás|tampoco|sin|odia|odio|"
    r"ne|n'\w+|pas|jamais|sans|aucune?|déteste|não|sem|non|mai più|senza|не|нет|никогда|без|ненавиж\w+)\b"
    r"|\bused to\b|\bgave up\b|\bgiven up\b|\bgive up\b|\bgives up\b|\bno longer\b|[不没未别無]|ない|ません|なかった|嫌い|讨厌",
    re.IGNORECASE,
)
_NO_DENIALS = re.compile(
    r"\b(?:can't wait|cannot wait|couldn't wait|not only|no problem|not bad|can't believe|no doubt|no wonder|"
    r"couldn't be|"
    r"don't worry|no matter|why not|not just|nicht nur|kein problem|no solo|no sólo|pas seulement)\b|不错|不久|没关系",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"[,;.!?:。，！？；]\s*|\s+(?:but|though|although|however|aber|sondern|pero|sino|mais|но|а)\s+|但是?|けど"
    r"|\s+(?:and|und|y|et|и|so|because)\s+(?=(?:i|i'\w+|we|my|he|she|it|they|now|ich|wir|mein\w*|yo|mi|je|j'\w+|"
    r"mon|ma|я|мы|мой)\b)",
    re.IGNORECASE,
)


def is_unspaced(character: str) -> bool:
    """Whether the character is of a script written without spaces."""
    return bool(_UNSPACED.match(character))


def tokens(text: str) -> list[str]:
    """Lower-case words, possessive endings taken off."""
    return [word.lower().removesuffix("'s").removesuffix("s'") for word in WORD.findall(text.translate(_APOSTROPHES))]


def names(text: str) -> set[str]:
    """Words written with a capital, without those that name the two who talk; in German that is every noun."""
    found = set()
    for match in WORD.finditer(text.translate(_APOSTROPHES)):
        word = match[0]
        if not word[0].isupper():
            continue
        for part in word.split("'"):
            plain = part.lower()
            if (
                len(plain) > 1
                and part[0].isupper()
                and plain not in SUBJECTS
                and plain not in _FUNCTION_WORDS
                and plain not in lexical.ENGLISH_STOP_WORDS
            ):
                found.add(plain)
    return found


def same_name(name: str, word: str) -> bool:
    """Whether the two are one word in different endings: "Annas" and "Anna", "Анне" and "Анна"."""
    shorter, longer = sorted((name, word), key=len)
    if len(shorter) < 3 or len(longer) - len(shorter) > 3:
        return False
    kept = len(shorter) if shorter.isascii() and longer.startswith(shorter) else len(shorter) - 1
    ending = len(shorter) - _common(shorter, longer)
    return ending <= len(shorter) - kept if shorter.isascii() else ending <= max(1, len(shorter) // 4)


def _common(first: str, second: str) -> int:
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    return length


_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_NUMBER_WORDS = {
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
    "ten": "10", "eleven": "11", "twelve": "12", "zwei": "2", "drei": "3", "vier": "4", "fünf": "5", "dos": "2", "tres": "3",
    "cuatro": "4", "cinco": "5", "deux": "2", "trois": "3", "quatre": "4", "cinq": "5", "два": "2", "две": "2", "три": "3",
}  # fmt: skip


def numbers(text: str) -> set[str]:
    """Numbers as digits, small ones also from words."""
    found = {number.strip(".,:").lstrip("0") or "0" for number in _NUMBER.findall(text)}
    return found | {_NUMBER_WORDS[word] for word in tokens(text) if word in _NUMBER_WORDS}


@lru_cache(maxsize=20_000)
def content(text: str) -> frozenset[str]:
    """Stems of the words that say something; pairs of characters where no spaces are written."""
    plain = _UNSPACED_SUBJECTS.sub("", text.translate(_APOSTROPHES))
    left = " ".join(word for word in tokens(plain) if word not in SUBJECTS and word not in _FUNCTION_WORDS)
    return frozenset(lexical.terms(left))


def shared(claim: frozenset[str], quote: frozenset[str]) -> int:
    """How many of the claim's stems the quote has too, allowing for endings that the stemmer does not know."""
    return sum(1 for stem in claim if stem in quote or any(_akin(stem, other) for other in quote))


def _akin(first: str, second: str) -> bool:
    return min(len(first), len(second)) >= 4 and _common(first, second) >= max(4, min(len(first), len(second)) - 1)


def is_denial(text: str) -> bool:
    return bool(_DENIALS.search(_NO_DENIALS.sub(" ", text.translate(_APOSTROPHES))))


_ASIDE = re.compile(
    r"\s*\([^()]*\)|\b(?:this|these) (?:morning|afternoon|evening|day|week\w*|month|year|spring|summer|fall|"
    r"autumn|winter)s?\b",
    re.IGNORECASE,
)
# case matters: "I love My Fair Lady" is no first person
_OWN_VIEW = re.compile(
    r"\b(?:I|I'\w+|i'm|me|my|mine|myself|we|we're|us|our|ours|ourselves|ich|mich|mir|mein\w*|wir|uns|unser\w*|yo|"
    r"mi|mis|"
    r"je|j'\w+|moi|mon|ma|mes|nous|notre|nos|я|мне|меня|мой|моя|моё|мои|мы|наш\w*)\b|[我私僕俺]"
)
_ADDRESS = re.compile(
    r"\b(?:you|your|yours|you'\w+|yourself|du|dein\w*|dich|dir|euch|tú|tu|tus|ti|usted|vous|votre|vos|toi|ton|"
    r"tes|ты|твой|твоя|вы|ваш\w*)\b|[你您]|あなた"
)
_POINTING = re.compile(
    r"\b(?:this|these|those|here|there|such|dies\w*|jen\w+|dort|est[aeo]s?|es[aeo]s?|aquell?\w*|allí|ahí|ce|cet|"
    r"cette|ces|cela|ça|celui\w*|это\w*|эт[аи]\w*|там|тут)\b"
    r"|\b(?:of|to|in|with|at|for|about|on|by|from|likes?|loves?|enjoys?|hates?|dislikes?|is|has|does|"
    r"did) (?:that|it|them|one|ones|so)\b"
    r"|\b(?:likes?|loves?|enjoys?|dislikes?|hates?|adores?) (?:the|how|when|that|what|where) (?:\w+)[.!]?$"
    r"|\b(?:likes?|loves?|enjoys?|dislikes?|hates?|adores?) (?:how|when|that|it when)\b"
    r"|\b(?:likes?|loves?|enjoys?|dislikes?|hates?|adores?) (?:is|are|was|makes|has|does)\b"
    r"|\b(?:making|having|doing|getting|going|being|using|to (?:have|make|do|be|get|go|use))[.!]?$"
    r"|\b(?:a|the) (?:\w+ )?(?:fan|lot|bit|one|thing|stuff)[.!]?$|[这那此]|これ|それ|あれ|この|その|あの",
    re.IGNORECASE,
)
# "likes watching the games": which ones, only the conversation knows. What everybody has but one of is another matter
_THE_ONE = re.compile(
    r"\b(?:likes?|loves?|enjoys?|dislikes?|hates?|adores?|is a fan of)\b[^.;]*?\bthe (?!(?:\w+ )?(?:sea|beach|ocean|mountains?|"
    r"outdoors|countryside|city|sun|rain|snow|cold|heat|dark|summer|winter|autumn|spring|morning|evening|night|weekends?|"
    r"piano|violin|guitar|cello|flute|drums?|theat(?:re|er)|cinema|opera|gym|arts?|internet|moon|stars|forest|woods|desert|"
    r"smell|taste|sound|colou?r|feeling|idea|beatles)\b)(?-i:[a-z])",
    re.IGNORECASE,
)
# of which "different colors", and when is "then"?
_LEFT_OPEN = re.compile(
    r"\b(?:different|various|certain|other|random|specific|particular) \w+[.!]?$|\b(?:then|instead|otherwise|that way)[.!]?$|"
    r"^the (?:user|companion) has (?:an? )?(?:\w+ )?(?:memory|memories|feeling|question|idea|crush|look|hunch|thought|point)\b|"
    r"\bnot being able\b|\bprefers? \w+[.!]?$|"
    # which city, and what happened that the user was hooked?
    r"\b(?:plans?|planning|wants?|wanted|going|hopes?|hoping) to \w+ the [a-z]+[.!]?$|"
    r"^the (?:user|companion) was (?!born|diagnosed|fired|laid|raised|adopted|hired|promoted|divorced|married|widowed|"
    r"elected|vegetarian|vegan|bullied|abused|injured|operated)(?:[a-z]+ ){0,4}[a-z]+[.!]?$",
    re.IGNORECASE,
)
_THIRD = re.compile(r"\b(?:he|she|it|they|him|her|them|his|hers|its|their|theirs)\b", re.IGNORECASE)


_PASSING = re.compile(
    r"^the (?:user|companion) (?:is|was|feels|felt|seems) (?:(?:a (?:bit|little)|really|so|very|pretty|kind of|"
    r"kinda|quite|super|also|just|still) )*"
    r"(?:nervous|worried|excited|tired|exhausted|happy|sad|sorry|glad|stressed|bored|busy|fine|okay|ok|good|"
    r"great|curious|sure|ready|hungry|"
    r"thirsty|sleepy|cold|hot|here|back|done|late|surprised|confused|proud|thankful|grateful|impressed|jealous|"
    r"lost|stuck|afraid|scared|"
    r"interested|trying|going|doing|looking|thinking|wondering|hoping|planning)\b"
    # what somebody is about to do with the next hour
    r"|^the (?:user|companion) (?:will|tries to|wants to|needs to|has to|is going to|plans to|hopes to) (?:just |also )?"
    r"(?:try\b|be \w+[.!]?$|do (?:it|so|that|something|things)\b|see (?:how|what|if)\b|check\b|rest\b|relax\b|sleep\b|"
    r"shower\b|take it easy|think about\b|keep (?:it|that|going)\b|get (?:some )?(?:rest|sleep|going|ready)\b)",
    re.IGNORECASE,
)
_PARTICLES = re.compile(
    r"(?:[,\s]+(?:lol|lmao|haha+|hehe|tho|though|dude|man|bro|too|as well|actually|btw|by the way|anyways?|"
    r"right now|right|you know|xd|:\)|;\)))+(?=[.!]?$)",
    re.IGNORECASE,
)


_WHO = r"^(?:the )?(?:user|companion|[A-Z][a-z]+|der nutzer|die nutzerin|el usuario|la usuaria|l'utilisat(?:eur|rice))"
# "The user mentions that they moved to Rome" says that the user moved to Rome, and small models say little else
_REPORTED = re.compile(
    rf"{_WHO} (?:also )?(?:says|said|mentions|mentioned|states|stated|notes|shares|shared|explains|explained|reports|announces|announced|reveals|revealed) "
    r"(?:that )?(?:they|he|she) (?=(?:\w+ed|have|has|went|had|did|got|made|took|bought|was|grew|came|met|found|lost|won|"
    r"ran|saw|began|left|built|"
    r"can|can't|cannot|could|will|won't)\b)",
    re.IGNORECASE,
)
_SPEECH = re.compile(
    rf"{_WHO} (?:\w+ly )?(?:also )?(?:says?|said|mention\w*|agree\w*|disagree\w*|thanks?|thanked|ask\w*|tells?|"
    rf"told|talks?|greet\w*|wish\w*|express\w*|"
    r"announc\w*|reveal\w*|emphasi\w*|insist\w*|remind\w*|compliment\w*|praise\w*|encourages?|suggests?|recommends?|congratulat\w*|apologi\w*|respon\w*|repl\w+|"
    r"acknowledge\w*|appreciate\w*|"
    r"thinks?|believes?|feels?|felt|hopes?|wonders?|seems?|confirm\w*|comment\w*|admit\w*|describe\w*|explain\w*|"
    r"share\w*|stat(?:es|ed)|"
    r"notes|noted|report\w*|offers?|invites?|joke\w*|laugh\w*|welcome\w*|wants? to (?:tell|say|talk|know|ask|"
    r"share|thank|show|hear|see)|"
    r"is (?:\w+ly )?(?:describ|mention|shar|discuss|express|compliment|thank|greet|agree|respond|reply|suggest|wonder|explain|refer|confirm|"
    r"offer|invit|encourag|jok|prais|acknowledg|comment|react|answer|recommend|introduc|address)ing|"
    r"has gratitude|is (?:speaking|talking|chatting|asking|saying|telling|grateful|thankful|happy|glad|excited|"
    r"responding|agreeing|off)|"
    r"would|might|may|let's|looks? forward|"
    r"sagt|sagte|erwähnt|fragt|bedankt|stimmt|meint|dice|dijo|menciona|pregunta|agradece|dit|mentionne|demande|"
    r"remercie)\b",
    re.IGNORECASE,
)


def as_stated(claim: str) -> str:
    """The claim without the frame of who mentioned it."""
    found = _REPORTED.match(claim)
    if found is None:
        return claim
    stated = re.sub(r"^have\b", "has", claim[found.end() :])
    return " ".join(claim.split()[:2]) + " " + stated


def reports_speech(claim: str) -> bool:
    """Whether the claim tells what somebody says, thinks or feels like saying, which the transcript does better."""
    return bool(_SPEECH.search(claim.translate(_APOSTROPHES)))


def is_passing(claim: str) -> bool:
    """Whether the claim is about a mood or a moment: the episode keeps it, and next week it is not true."""
    return bool(_PASSING.search(claim.translate(_APOSTROPHES)))


def without_particles(claim: str) -> str:
    """The claim without the tail that only its conversation gives a meaning: "too", "lol", "though"."""
    return _PARTICLES.sub("", claim.strip())


def dangles(claim: str, quote: str) -> bool:
    """Whether the claim can't be understood by itself: it points at something, or speaks as one of the two who talked."""
    plain = _ASIDE.sub("", claim.translate(_APOSTROPHES)).strip()
    if any(pattern.search(plain) for pattern in (_OWN_VIEW, _ADDRESS, _POINTING, _THE_ONE, _LEFT_OPEN)):
        return True
    pronouns = {found.lower() for found in _THIRD.findall(plain)} & {found.lower() for found in _THIRD.findall(quote)}
    return bool(pronouns) and not names(plain)


def contradicts(claim: str, quote: str) -> bool:
    """Whether the claim denies what the quote states, or states what the quote denies.

    Only the clauses of the quote that speak of the same thing count: "I'm not vegetarian any more, I eat fish".
    """
    about = content(claim)
    clauses = [clause for clause in _CLAUSE.split(quote.translate(_APOSTROPHES)) if clause and clause.strip()]
    overlap = [shared(about, content(clause)) for clause in clauses]
    best = max(overlap, default=0)
    spoken = [clause for clause, weight in zip(clauses, overlap, strict=True) if weight == best and best]
    if not spoken:
        return False
    denies = is_denial(claim)
    return all(is_denial(clause) != denies for clause in spoken)
