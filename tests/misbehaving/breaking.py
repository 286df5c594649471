"""Replies that break off once and are well when they are asked for again."""

from aiohttp import web

from tests.misbehaving.calls import Call, behave, quirk


@quirk("breaks-off-once", "a server that is restarted in the middle of a reply")
async def breaks_off_once(call: Call) -> web.StreamResponse:
    if call.state.counts[call.model] > 1:
        return await behave(call)
    response = await call.open()
    await call.words(response, " ".join(call.reply().split(" ")[:7]) + " ", pause=0.02)
    call.cut()
    return response
