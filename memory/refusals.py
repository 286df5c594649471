"""Texts that are never remembered as facts, whoever says them: orders, links, markup, roles, secrets.

Memory is read back into prompts, so a fact that gives an order is an order that never ends. What is refused here is
still in the transcript and in its episode; it just does not become a statement about somebody.
"""

import re

_ORDERS = (
    # English
    (
        r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,40}\b(?:instruction|prompt|rule|previous|above|prior|"
        r"guideline|polic|safety|system)"
    ),
    (
        r"\b(?:you|the (?:assistant|companion|model|ai|system))\s+(?:must|shall|should|have to|need to|are to|"
        r"will now|may only|can only)\b"
    ),
    (
        r"\b(?:from now on|henceforth|going forward|starting now|at all times)\b.{0,30}\b(?:you|always|never|respond|"
        r"answer|reply|act|speak|call|say|use|include|end|begin)"
    ),
    (
        r"\b(?:always|never)\s+(?:respond|answer|reply|say|tell|include|use|end|begin|start|send|reveal|mention|obey|"
        r"trust|comply|call|write|output|add|append|recommend)\b"
    ),
    r"\b(?:act|behave|respond|answer|reply|pretend|roleplay)\s+(?:as|like)\s+(?:if\b|a\b|an\b|the\b|you\b|dan\b)",
    r"\b(?:system|developer|initial|hidden|secret)\s+(?:prompt|message|instruction)",
    r"\b(?:new|updated?|revised|following|these|my)\s+(?:instructions?|directives?|rules?|orders?|commands?)\b",
    (
        r"\b(?:reveal|print|output|repeat|leak|exfiltrate|dump|forward|send)\b.{0,40}\b(?:prompt|memor|password|"
        r"secret|key|conversation|data|history|everything)"
    ),
    r"\b(?:jailbreak|dan mode|developer mode|god mode|sudo|prompt injection|do anything now)\b",
    (
        r"\b(?:when(?:ever)?|if|each time|every time)\b.{0,60}\b(?:asks?|says?|mentions?|"
        r"types?)\b.{0,60}\b(?:respond|answer|reply|say|tell|claim|call|output|send)\b"
    ),
    (
        r"\b(?:the user|i)\b.{0,30}\b(?:is|am|has|have)\b.{0,20}\b(?:admin|administrator|root access|operator rights|"
        r"developer access|unrestricted|verified adult|age[- ]verified)"
    ),
    (
        r"\b(?:remember|store|save|note|memori[sz]e)\b.{0,20}\b(?:that you\b|to always|to never|this (?:rule|"
        r"instruction|command)|the following)"
    ),
    r"\b(?:call|invoke|execute|run|use)\s+(?:the\s+)?(?:tool|function|command|script|code|api)\b",
    r"\bdo not\s+(?:tell|mention|reveal|disclose|inform|warn|refuse)\b",
    # German, Spanish, French, Portuguese, Italian, Russian, Chinese, Japanese
    r"\b(?:ignorier\w*|vergiss|missachte|umgeh\w*)\b.{0,40}\b(?:anweisung|regel|vorherig|bisherig|obig|system)",
    r"\b(?:ab jetzt|von nun an|ab sofort|künftig)\b.{0,30}\b(?:du|immer|nie|antworte|sprich|sag|nenn|verhalte)",
    r"\b(?:du|der (?:assistent|begleiter)|die ki)\s+(?:musst|muss|sollst|soll|darfst nur|darf nur|hast zu)\b",
    r"\b(?:antworte|sag|nenne|sprich)\s+(?:immer|nie|ab jetzt|nur|stets)\b",
    r"\b(?:ignora|olvida|desobedece|omite)\b.{0,40}\b(?:instruc|regla|anterior|previ|sistema)",
    (
        r"\b(?:a partir de ahora|desde ahora|de ahora en adelante)\b.{0,30}\b(?:siempre|nunca|responde|debes|eres|"
        r"actúa|habla|llám|tú)"
    ),
    r"\b(?:tú|el (?:asistente|compañero))?\s*(?:debes|deberás|tienes que|has de)\b",
    r"\b(?:responde|contesta|di|actúa)\s+(?:siempre|nunca|solo|sólo|como)\b",
    r"\b(?:ignore[zr]?|oublie[zr]?|contourne[zr]?)\b.{0,40}\b(?:instruction|consigne|règle|précédent|système)",
    r"\b(?:désormais|dorénavant|à partir de maintenant)\b.{0,30}\b(?:tu|vous|toujours|jamais|réponds|répondez|agis)",
    r"\b(?:tu dois|vous devez|tu devras|il faut que tu)\b",
    r"\b(?:réponds|répondez|dis|agis)\s+(?:toujours|jamais|uniquement|comme)\b",
    r"\b(?:ignore|esqueça|desconsidere)\b.{0,40}\b(?:instruç|regra|anterior)",
    r"\b(?:a partir de agora|de agora em diante)\b.{0,30}\b(?:sempre|nunca|responda|você|deve)",
    r"\b(?:ignora|dimentica)\b.{0,40}\b(?:istruzion|regol|precedent)",
    r"\b(?:d'ora in poi|da adesso)\b.{0,30}\b(?:sempre|mai|rispondi|devi)",
    r"(?:игнорируй|забудь|не обращай внимания).{0,40}(?:инструкц|правил|предыдущ)",
    r"(?:отныне|с этого момента).{0,30}(?:ты|всегда|никогда|отвечай)",
    r"(?:忽略|无视|忘记|忘掉).{0,20}(?:指令|指示|规则|提示|以上|之前)",
    r"(?:从现在起|从现在开始|今后).{0,20}(?:你|必须|总是|永远|回答)",
    r"(?:指示|命令|ルール|プロンプト).{0,12}(?:無視|忘れ)",
    r"(?:今後|これから).{0,20}(?:必ず|常に|答え)",
)
ORDER = re.compile("|".join(f"(?:{pattern})" for pattern in _ORDERS), re.IGNORECASE | re.DOTALL)

LINK = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,15}://|\bwww\.|\b(?:javascript|data|mailto|tel|file):\S|"
    r"\b(?:[a-z0-9-]+\.)+(?:com|net|org|io|dev|ru|cn|info|biz|xyz|top|app|ai|co|me|link|site|online)(?:/\S*|\b)|"
    r"\b\d{1,3}(?:\.\d{1,3}){3}\b",
    re.IGNORECASE,
)
MARKUP = re.compile(
    r"<[/!?]?[a-zA-Z][^>]{0,200}>|&(?:lt|gt|amp|quot|#x?[0-9a-f]{1,6});|```|!\[|\]\(|\{\{|\}\}|\{%|%\}|\$\{|<!--|"
    r"-->|[{}\[\]<>|\\`]",
)
ROLE = re.compile(
    r"<\|[^|]{0,40}\|>|\[/?(?:INST|SYS|SYSTEM|USER|ASSISTANT)\]|<</?SYS>>|</?s>|"
    r"(?:^|[\n\"'“])\s*#{0,4}\s*(?:system|assistant|user|developer|tool|human|ai|instruction)s?\s*:|"
    r"###\s*(?:instruction|system|response|input)|\bim_(?:start|end)\b|\bBEGIN (?:SYSTEM|PROMPT)\b",
    re.IGNORECASE,
)
_SECRETS = (
    (
        r"\b(?:pass(?:word|phrase|code)|passwort|kennwort|contraseña|mot de passe|senha|пароль|密码|パスワード)\b\s*(?:is|"
        r"are|ist|es|est|é|:|=|—|-)?\s*\S"
    ),
    r"(?:密码|密碼|パスワード|暗証番号)",
    r"\b(?:pin|cvv|cvc|security code|otp|one-time code|2fa code)\b.{0,12}\d{3,}",
    r"\b(?:api|secret|access|private|bearer|auth|session)[ _-]?(?:key|token|secret)\b",
    r"\b(?:sk|pk|rk)[-_](?:live|test|proj|ant|or)?[-_]?[A-Za-z0-9]{16,}",
    (
        r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|"
        r"\bAIza[0-9A-Za-z_-]{30,}"
    ),
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
    r"-----BEGIN [A-Z ]*(?:PRIVATE KEY|CERTIFICATE)",
    r"\b\d{3}-\d{2}-\d{4}\b",
    r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,4})?\b",
    r"\b(?:seed|recovery|mnemonic)\s+phrase\b",
)
SECRET = re.compile("|".join(f"(?:{pattern})" for pattern in _SECRETS), re.IGNORECASE)
LONG_TOKEN = re.compile(r"\b(?=[A-Za-z0-9+/_=-]*\d)(?=[A-Za-z0-9+/_=-]*[A-Za-z])[A-Za-z0-9+/_=-]{24,}")
CARD = re.compile(r"\b\d(?:[ -]?\d){12,18}\b")


def _is_card(digits: str) -> bool:
    """Luhn's check, which every payment card passes and one random number in ten."""
    numbers = [int(digit) for digit in digits if digit.isdigit()][::-1]
    return sum(n if at % 2 == 0 else sum(divmod(2 * n, 10)) for at, n in enumerate(numbers)) % 10 == 0


def holds_secret(text: str) -> bool:
    """Whether the text holds a password, key, card or account number."""
    if SECRET.search(text) or LONG_TOKEN.search(text):
        return True
    return any(_is_card(found[0]) for found in CARD.finditer(text))


def refusal(text: str) -> str:
    """Why this text must not be remembered as a fact, or nothing."""
    if ROLE.search(text):
        return "role_token"
    if LINK.search(text):
        return "link"
    if MARKUP.search(text):
        return "markup"
    if holds_secret(text):
        return "secret"
    if any(not (character.isprintable() or character in "\n\t") for character in text):
        return "control"
    if ORDER.search(text):
        return "order"
    return ""
