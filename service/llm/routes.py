"""/v1/backends: what the model servers are doing, for operators."""

from fastapi import APIRouter

from memory.ports import Embedder
from service.auth.dependencies import Operator
from service.dependencies import READ, Context
from service.following import FollowingEmbedder
from service.llm.embeddings import BackendEmbedder
from service.llm.overview import cache_use, describe, router_choices
from service.llm.schemas import BackendsView, EmbeddingsView
from service.problems import problems

router = APIRouter(tags=["operators"])


@router.get(
    "/v1/backends",
    summary="What the model servers are doing",
    responses=problems({403: "`operator_only`"}),
    dependencies=[READ],
)
async def read_backends(_operator: Operator, context: Context) -> BackendsView:
    """State, keys, permits, budgets and capabilities of each, as this instance sees them."""
    return BackendsView.model_validate(
        {
            "instance": context.settings.instance,
            "backends": describe(context.backends),
            "router": router_choices(context.backends),
            "cache": cache_use(context.backends),
            "embeddings": _embeddings(context.embedder),
        }
    )


def _embeddings(embedder: Embedder) -> EmbeddingsView:
    embedder = embedder.active if isinstance(embedder, FollowingEmbedder) else embedder
    if isinstance(embedder, BackendEmbedder):
        state = "budget_spent" if embedder.is_spent_up else "resting" if embedder.is_resting else "ready"
        return EmbeddingsView(
            name=embedder.name,
            backend=embedder.backend_name,
            dimensions=embedder.dimensions,
            state=state,
            calls=embedder.calls,
            texts=embedder.texts,
        )
    return EmbeddingsView(
        name=embedder.name, backend=None, dimensions=embedder.dimensions, state="ready", calls=None, texts=None
    )
