"""The statements of recall: scores of all that may matter, then the details of what may be chosen.

Scores come packed, a column a value: a row for each message would cost both sides more than computing them. What a
message says is fetched for the most promising ones only.
"""

from functools import lru_cache

from memory.lexical import TERM_SPACE

POOL, SMALL_POOL, FEW = 200, 140, 20
"""Messages whose details are looked at; when only a few are asked for, fewer do as well (docs/recall.md)."""
REACH = 6
"""Messages before and after whose best score lifts a message: what is said in one breath with a hit is about it."""
FACTS = 30
"""Facts whose details are looked at."""
HITS = 60
"""Of a user with many memories: messages taken by meaning, and by words, to be scored with those around them."""
RARE = 6_000
"""Messages that the terms looked up together may have: commoner words tell too little for what reading them costs."""
CELLS = 16
"""Cells looked into, of about twice the root of the number of messages."""

COLUMNS = {1: ("embedding", "cell"), 2: ("embedding_b", "cell_b")}
"""Where a row has its vector, and the vector's cell, of the model in each place (`models`)."""
NARROW = 1024
"""Numbers of a vector up to which the index of cells holds it: a search then reads the index alone."""

SCALE = 32768
"""The question's vector is sent in whole numbers of this size: five digits each, which is what half precision holds."""


# $1 user, $2 routes, $3 the question's vector or null, $4 its model (null: the current one), $5 the term ids
def _asked(slot: int) -> str:
    return f"""
WITH counted AS MATERIALIZED (
    -- one search with all terms; joined with them, the planner would read every term of the user
    SELECT term, episodes FROM term_counts WHERE user_id = $1 AND term = ANY ($5::int[] || 0)
), asked AS MATERIALIZED (
    SELECT asked.term, asked.place, coalesce(known.episodes, 0) AS episodes,
        ln(1 + greatest(total.episodes - coalesce(known.episodes, 0) + 0.5, 0.5)
            / (coalesce(known.episodes, 0) + 0.5))::real AS idf
    FROM unnest($5::int[]) WITH ORDINALITY AS asked(term, place)
    CROSS JOIN (SELECT coalesce(sum(episodes), 0) AS episodes FROM counted WHERE term = 0) AS total
    LEFT JOIN counted AS known ON known.term = asked.term
), model AS MATERIALIZED (
    SELECT slot FROM embedding_models WHERE CASE WHEN $4::text IS NULL THEN state = 'current' ELSE name = $4 END
), question AS MATERIALIZED (
    SELECT CASE WHEN (SELECT slot FROM model) = {slot} THEN $3::text::halfvec END AS dense,
        ('{{' || coalesce(string_agg(term || ':' || idf, ',' ORDER BY term), '')
            || '}}/{TERM_SPACE + 1}')::sparsevec AS words,
        coalesce(array_agg(idf ORDER BY place), '{{}}') AS idfs, (SELECT slot FROM model) AS slot,
        EXISTS (SELECT FROM users WHERE user_id = $1 AND many_memories) AS many
    FROM asked
)"""


def _scores(slot: int, row: str) -> str:
    # vectors have length 1: their inner product is the cosine, at a third of the work. Sign and scale are left to whoever
    # reads them (`scores`): here they would be set row by row
    return f"""({row}.lexical <#> (SELECT words FROM question))::real AS lexical,
        coalesce(({row}.{COLUMNS[slot][0]} <#> (SELECT dense FROM question))::real, 'NaN') AS dense"""


def _packed(slot: int) -> str:
    return f""", told AS (
    SELECT f.id, {_scores(slot, "f")}
    FROM facts AS f WHERE f.user_id = $1 AND f.route = ANY ($2::text[]) AND f.status IN ('active', 'uncertain')
)
SELECT question.idfs, question.many, question.slot, s.ids, s.conversations, s.seqs, s.lexical, s.dense,
    t.ids AS fact_ids, t.lexical AS fact_lexical, t.dense AS fact_dense
FROM question, (
    SELECT string_agg(uuid_send(message_id), '') AS ids, string_agg(uuid_send(conversation_id), '') AS conversations,
        string_agg(int8send(seq), '') AS seqs, string_agg(float4send(lexical), '') AS lexical,
        string_agg(float4send(dense), '') AS dense
    FROM scored
) AS s, (
    SELECT string_agg(uuid_send(id), '') AS ids, string_agg(float4send(lexical), '') AS lexical,
        string_agg(float4send(dense), '') AS dense
    FROM told
) AS t
"""


@lru_cache
def read_all(slot: int) -> str:
    """Scores of all messages and facts of a user, by vectors in this place.

    When the user has many memories, or the model's vectors are in the other place, only that it is so: whoever asks
    guesses both. Choosing the column in the statement would have every row taken apart up to the last of them.
    """
    return f"""{_asked(slot)}, scored AS (
    SELECT e.message_id, e.conversation_id, e.seq, {_scores(slot, "e")}
    FROM episodes AS e WHERE e.user_id = $1 AND e.route = ANY ($2::text[])
        AND (SELECT NOT many AND coalesce(slot, {slot}) = {slot} FROM question)
){_packed(slot)}"""


# LATERAL with a LIMIT throughout: each search stays a search of an index, whatever the planner thinks of the statistics
# (with a plain join it read all of the partition for a user of 8,000 messages)
@lru_cache
def read_many(slot: int, *, narrow: bool) -> str:
    """The same of a user with many memories: scores of what the cells and the postings lead to, and what is around it.

    `narrow`: the model's vectors are not wider than `NARROW`.
    """
    embedding, cell = COLUMNS[slot]
    return f"""{_asked(slot)}, near_it AS (
    -- the most alike of the messages in the cells whose middles are the most alike, …
    SELECT e.conversation_id, e.seq FROM (
        SELECT cell FROM memory_cells WHERE user_id = $1 AND slot = {slot} AND (SELECT slot FROM question) = {slot}
        ORDER BY middle <#> (SELECT dense FROM question) LIMIT {CELLS}
    ) AS c CROSS JOIN LATERAL (
        SELECT e.conversation_id, e.seq, e.{embedding} <#> (SELECT dense FROM question) AS distance FROM episodes AS e
        WHERE e.user_id = $1 AND e.{cell} = c.cell AND e.many
            AND vector_dims(e.{embedding}) {"<=" if narrow else ">"} {NARROW} AND e.route = ANY ($2::text[])
        ORDER BY distance LIMIT {HITS}
    ) AS e ORDER BY e.distance LIMIT {HITS}
), telling AS MATERIALIZED (
    -- … and the best of those with the question's rarest terms, as many terms as {RARE} messages have
    SELECT term, idf FROM (
        SELECT term, idf, sum(episodes) OVER (ORDER BY episodes, term) AS together FROM asked WHERE episodes > 0
    ) AS counted WHERE together <= {RARE}
), posted AS MATERIALIZED (
    SELECT p.message_id, sum(p.weight * telling.idf) AS score
    FROM telling CROSS JOIN LATERAL (
        SELECT message_id, weight FROM postings WHERE user_id = $1 AND term = telling.term LIMIT {RARE}
    ) AS p
    GROUP BY p.message_id ORDER BY score DESC LIMIT {2 * HITS}
), worded AS (
    SELECT e.conversation_id, e.seq FROM posted CROSS JOIN LATERAL (
        SELECT conversation_id, seq, route FROM episodes WHERE user_id = $1 AND message_id = posted.message_id LIMIT 1
    ) AS e
    WHERE e.route = ANY ($2::text[]) ORDER BY posted.score DESC LIMIT {HITS}
), parted AS (
    SELECT conversation_id, seq,
        coalesce(seq - lag(seq) OVER said > {2 * REACH}, true) AS apart
    FROM (SELECT * FROM near_it UNION SELECT * FROM worded) AS hits WINDOW said AS (PARTITION BY conversation_id ORDER BY seq)
), stretches AS MATERIALIZED (
    -- hits with what is around them, those that overlap as one: a stretch costs one search of the index
    SELECT conversation_id, min(seq) - {REACH} AS first, max(seq) + {REACH} AS last
    FROM (SELECT *, count(*) FILTER (WHERE apart) OVER (PARTITION BY conversation_id ORDER BY seq) AS stretch FROM parted) AS s
    GROUP BY conversation_id, stretch
), scored AS (
    SELECT e.message_id, e.conversation_id, e.seq, {_scores(slot, "e")}
    FROM stretches AS s CROSS JOIN LATERAL (
        SELECT * FROM episodes WHERE user_id = $1 AND conversation_id = s.conversation_id AND seq BETWEEN s.first AND s.last
        ORDER BY seq LIMIT s.last - s.first + 1
    ) AS e
    WHERE e.route = ANY ($2::text[])
){_packed(slot)}"""


# $1 user, $2 messages and $3 facts as text, so that their ids need not become objects first
DETAILS = """
SELECT e.*, f.* FROM (
    SELECT string_agg(uuid_send(message_id), '') AS ids, string_agg(int2send(traits), '') AS traits,
        string_agg(timestamptz_send(said_at), '') AS said_at, array_agg(role) AS roles, array_agg(speaker) AS speakers,
        array_agg(text) AS texts, array_agg(known_words) AS known_words
    FROM episodes WHERE user_id = $1 AND message_id = ANY ($2::text::uuid[])
) AS e, (
    SELECT string_agg(uuid_send(id), '') AS fact_ids, string_agg(uuid_send(conversation_id), '') AS fact_conversations,
        string_agg(int8send(source_seq), '') AS fact_seqs, string_agg(uuid_send(message_id), '') AS fact_messages,
        string_agg(timestamptz_send(said_at), '') AS fact_said_at,
        array_agg(CASE kind WHEN 'companion' THEN 'assistant' ELSE 'user' END) AS fact_roles, array_agg(text) AS fact_texts
    FROM facts WHERE user_id = $1 AND id = ANY ($3::text::uuid[])
) AS f
"""
