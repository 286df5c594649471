"""Requests that real servers refuse, with their words and status."""

from itertools import pairwise
from typing import Any

from tests.misbehaving.calls import Call, failure, refusal, roles


def _format(call: Call) -> str:
    return str((call.body.get("response_format") or {}).get("type", ""))


def _openai(
    message: str, *, code: str | None = None, param: str | None = None, kind: str = "invalid_request_error"
) -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _consecutive(call: Call) -> bool:
    return any(first == second == "assistant" for first, second in pairwise(roles(call)))


def _late_system(call: Call) -> bool:
    return "system" in list(roles(call))[1:]


refusal(
    "json-object-refused",
    "lmstudio#189, #307",
    lambda call: _format(call) == "json_object",
    400,
    {"error": "'response_format.type' must be 'json_schema' or 'text'"},
)
refusal(
    "json-schema-refused",
    "servers before structured outputs",
    lambda call: _format(call) == "json_schema",
    400,
    _openai("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."),
)
refusal(
    "strict-schema-refused",
    "OpenAI: words of JSON Schema that its strict form lacks",
    lambda call: bool((call.body.get("response_format") or {}).get("json_schema", {}).get("strict")),
    400,
    _openai("Invalid schema for response_format 'facts': In context=('properties',), 'maxLength' is not permitted."),
)
refusal(
    "structured-refused",
    "small gateways",
    lambda call: bool(_format(call)),
    400,
    _openai("Unrecognized request argument supplied: response_format"),
)
refusal(
    "developer-role-refused",
    "lmstudio#669",
    lambda call: "developer" in roles(call),
    400,
    {"error": "Invalid 'role': developer. Only user, assistant, system and tool roles are supported."},
)
refusal(
    "system-role-refused",
    "lmstudio#2219",
    lambda call: "system" in roles(call),
    500,
    {"error": "Error rendering prompt: Only user, assistant and tool roles are supported, got system."},
)
refusal(
    "system-must-be-first",
    "Qwen templates",
    _late_system,
    400,
    _openai("System message must be at the beginning."),
)
refusal(
    "consecutive-assistant-refused",
    "lmstudio#1452",
    _consecutive,
    400,
    {"error": "Cannot have 2 or more assistant messages at the end of the list: roles must alternate user/assistant."},
)
refusal(
    "empty-assistant-refused",
    "continue#750, lmstudio#894",
    lambda call: any(m.get("role") == "assistant" and not m.get("content") for m in call.messages),
    400,
    {"error": "'messages' array must only contain objects with a 'content' field that is not empty"},
)
refusal(
    "max-tokens-refused",
    "OpenAI o-series and gpt-5: goclaw#211",
    lambda call: "max_tokens" in call.body,
    400,
    _openai(
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        code="unsupported_parameter",
        param="max_tokens",
    ),
)
refusal(
    "temperature-refused",
    "OpenAI o-series and gpt-5: glass#227, YPrompt#26",
    lambda call: call.body.get("temperature", 1) != 1,
    400,
    _openai(
        "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) is supported.",
        code="unsupported_value",
        param="temperature",
    ),
)
refusal(
    "stream-options-refused",
    "older vLLM and gateways",
    lambda call: "stream_options" in call.body,
    422,
    {
        "detail": [
            {"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}
        ]
    },
)
refusal(
    "user-refused",
    "Mistral: extra_forbidden",
    lambda call: "user" in call.body,
    422,
    {"detail": [{"type": "extra_forbidden", "loc": ["body", "user"], "msg": "Extra inputs are not permitted"}]},
)
refusal(
    "everything-refused",
    "a strict server: one complaint at a time",
    lambda call: (
        bool({"max_tokens", "stream_options", "user"} & call.body.keys()) or call.body.get("temperature", 1) != 1
    ),
    400,
    _openai(
        "Unsupported parameters: 'max_tokens' (use 'max_completion_tokens'), 'temperature', 'stream_options', 'user'"
    ),
)
refusal(
    "prefill-refused",
    "Anthropic and OpenAI-like servers; llama.cpp#21754",
    lambda call: bool(call.prefix),
    400,
    _openai("This model does not support assistant message prefill. The conversation must end with a user message."),
)

failure(
    "overflow-llamacpp",
    "llama.cpp",
    400,
    {
        "error": {
            "code": 400,
            "message": "request (9030 tokens) exceeds the available context size (4096 tokens), try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 9030,
            "n_ctx": 4096,
        }
    },
)
failure(
    "overflow-lmstudio",
    "lmstudio#237, #546, #2256",
    400,
    {
        "error": "The number of tokens to keep from the initial prompt is greater than the context length "
        "(n_keep: 5210>= n_ctx: 4096). Try to load the model with a larger context length, or provide a shorter input."
    },
)
failure(
    "overflow-lmstudio-mlx",
    "lmstudio: opencode#11141",
    400,
    {
        "error": "Trying to keep the first 5210 tokens when context the overflows. However, the model is loaded with "
        "context length of only 4096 tokens, which is not enough."
    },
)
failure(
    "overflow-openai",
    "OpenAI",
    400,
    _openai(
        "This model's maximum context length is 4096 tokens. However, your messages resulted in 9030 tokens. "
        "Please reduce the length of the messages.",
        code="context_length_exceeded",
        param="messages",
    ),
)
failure(
    "overflow-openai-responses",
    "OpenAI gpt-5",
    400,
    _openai(
        "Input tokens exceed the configured limit of 4,096 tokens. Your messages resulted in 9,030 tokens.",
        code="context_length_exceeded",
    ),
)
failure(
    "overflow-vllm",
    "vLLM",
    400,
    {
        "object": "error",
        "message": "This model's maximum context length is 4096 tokens. However, you requested 9030 tokens "
        "(8030 in the messages, 1000 in the completion). Please reduce the length of the messages or completion.",
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    },
)
failure(
    "model-not-found",
    "OpenAI",
    404,
    _openai("The model `nope` does not exist or you do not have access to it.", code="model_not_found"),
)
failure(
    "model-not-found-ollama",
    "Ollama",
    404,
    _openai('model "nope" not found, try pulling it first', kind="not_found_error"),
)
failure(
    "no-models-loaded",
    "lmstudio#1908",
    404,
    {"error": "No models loaded. Please load a model in the developer page or use `lms load`."},
)
failure(
    "wrong-endpoint", "LM Studio without /v1", 200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}
)
failure("key-refused", "OpenAI", 401, _openai("Incorrect API key provided: sk-no****.", code="invalid_api_key"))
failure(
    "no-credit",
    "OpenAI",
    429,
    _openai("You exceeded your current quota, please check your plan.", code="insufficient_quota"),
)

failure(
    "moderated",
    "OpenRouter: 403 for what was said, with a good key",
    403,
    {
        "error": {
            "code": 403,
            "message": 'nope/nope requires moderation on Nope. Your input was flagged for "violence". No credits were charged.',
            "metadata": {"reasons": ["violence"], "flagged_input": "SECRET WORDS", "provider_name": "Nope"},
        }
    },
)
failure(
    "prompt-filtered",
    "Azure OpenAI",
    400,
    _openai(
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. "
        "Please modify your prompt and retry.",
        code="content_filter",
        param="prompt",
    ),
)

_LIMITED = _openai("Rate limit reached for requests", code="rate_limit_exceeded")
failure("429", "every provider", 429, _LIMITED)
failure("429-seconds", "every provider", 429, _LIMITED, {"Retry-After": "7"})
failure("429-date", "proxies", 429, _LIMITED, {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"})
failure("429-ms", "OpenAI", 429, _LIMITED, {"retry-after-ms": "1500"})
failure("429-once", "every provider", 429, _LIMITED, {"retry-after-ms": "30"}, once=True)
failure("429-once-silent", "every provider", 429, _LIMITED, once=True)
failure(
    "500", "every server", 500, _openai("The server had an error while processing your request", kind="server_error")
)
failure(
    "502-html", "nginx, Cloudflare", 502, "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
)
failure(
    "503",
    "llama.cpp while loading",
    503,
    {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}},
)
failure(
    "503-once",
    "llama.cpp while loading",
    503,
    {"error": {"message": "Loading model", "code": 503}},
    {"Retry-After": "0"},
    once=True,
)
failure(
    "529",
    "Anthropic-like: overloaded",
    529,
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
)
failure("html-200", "captive portals, wrong port", 200, "<!doctype html><title>Welcome to nginx!</title>")
failure(
    "redirect",
    "http to https, missing slash",
    307,
    "<html>moved</html>",
    {"Location": "http://127.0.0.1:9/v1/chat/completions"},
)
failure("error-in-200", "goose#8027, llama.cpp#16109", 200, _openai("Provider returned error", kind="provider_error"))
failure("string-error-in-200", "lmstudio#307, #1908", 200, {"error": "Channel Error"})
failure("empty-body", "proxies", 200, "")
