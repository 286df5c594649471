"""The one statement of recall."""

from memory.lexical import TERM_SPACE

POOL = 200
"""Messages that the statement hands over to be ranked."""
REACH = 6
"""Messages before and after whose best score lifts a message: what is said in one breath with a hit is about it."""
FACTS = 30
"""Facts handed over."""
HITS = 60
"""Of a user with many memories: messages taken from each index, to be scored with those around them."""
RARE = 4_000
"""Messages that the terms looked up together may have: commoner words tell too little for what reading them costs."""

# $1 user, $2 routes, $3 the question's vector or null, $4 its term ids, $5 and $6 the conversation and the seq after
# which messages are in the prompt already
RECALL = f"""
WITH asked AS MATERIALIZED (
    SELECT asked.term, asked.place, coalesce(known.episodes, 0) AS episodes, ln(1 + greatest(total.episodes - coalesce(known.episodes, 0) + 0.5, 0.5)
        / (coalesce(known.episodes, 0) + 0.5))::real AS idf
    FROM unnest($4::int[]) WITH ORDINALITY AS asked(term, place)
    CROSS JOIN (SELECT coalesce(sum(episodes), 0) AS episodes FROM term_counts WHERE user_id = $1 AND term = 0) AS total
    LEFT JOIN term_counts AS known ON known.user_id = $1 AND known.term = asked.term
), question AS MATERIALIZED (
    SELECT $3::real[]::halfvec(384) AS dense,
        ('{{' || coalesce(string_agg(term || ':' || idf, ',' ORDER BY term), '')
            || '}}/{TERM_SPACE + 1}')::sparsevec AS words,
        coalesce(array_agg(idf ORDER BY place), '{{}}') AS idfs,
        EXISTS (SELECT FROM users WHERE user_id = $1 AND many_memories) AS many
    FROM asked
), near_it AS (
    -- the rest of this part for users with many memories only: the most alike by the vector index, …
    SELECT e.conversation_id, e.seq FROM episodes AS e
    WHERE e.many AND e.user_id = $1 AND e.route = ANY ($2::text[]) AND (SELECT many FROM question)
    ORDER BY e.embedding <=> (SELECT dense FROM question) LIMIT {HITS}
), telling AS (
    -- … and the best of those with the question's rarest terms, as many terms as {RARE} messages have
    SELECT array_agg(term) AS terms FROM (
        SELECT term, sum(episodes) OVER (ORDER BY episodes, term) AS together FROM asked WHERE episodes > 0
    ) AS counted WHERE together <= {RARE}
), worded AS (
    SELECT e.conversation_id, e.seq FROM episodes AS e
    WHERE e.many AND e.user_id = $1 AND e.route = ANY ($2::text[]) AND (SELECT many FROM question)
        AND e.terms && (SELECT terms FROM telling)
    ORDER BY e.lexical <#> (SELECT words FROM question) LIMIT {HITS}
), about AS (
    SELECT DISTINCT conversation_id, seq + step AS seq
    FROM (SELECT * FROM near_it UNION ALL SELECT * FROM worded) AS hits, generate_series(-{REACH}, {REACH}) AS step
), scored AS MATERIALIZED (
    SELECT e.message_id, e.conversation_id, e.seq, (-(e.lexical <#> (SELECT words FROM question)))::real AS lexical,
        (1 - (e.embedding <=> (SELECT dense FROM question)))::real AS dense
    FROM episodes AS e
    WHERE e.user_id = $1 AND e.route = ANY ($2::text[]) AND NOT (SELECT many FROM question)
    UNION ALL
    SELECT e.message_id, e.conversation_id, e.seq, (-(e.lexical <#> (SELECT words FROM question)))::real,
        (1 - (e.embedding <=> (SELECT dense FROM question)))::real
    FROM about AS a JOIN episodes AS e
        ON e.user_id = $1 AND e.conversation_id = a.conversation_id AND e.seq = a.seq
    WHERE e.route = ANY ($2::text[])
), told AS MATERIALIZED (
    SELECT f.id, (-(f.lexical <#> question.words))::real AS lexical,
        (1 - (f.embedding <=> question.dense))::real AS dense
    FROM facts AS f, question
    WHERE f.user_id = $1 AND f.route = ANY ($2::text[]) AND f.status IN ('active', 'uncertain')
), scale AS MATERIALIZED (
    SELECT coalesce(max(lexical), 0) AS lexical_best, greatest(max(lexical), 1e-6)::real AS lexical_range, coalesce(max(dense), 0)::real AS dense_best,
        (CASE WHEN count(dense) > 1 THEN min(dense) ELSE 0 END)::real AS dense_worst,
        greatest(max(dense) - CASE WHEN count(dense) > 1 THEN min(dense) ELSE 0 END, 1e-6)::real AS dense_range
    FROM (SELECT lexical, dense FROM scored UNION ALL SELECT lexical, dense FROM told) AS every
), fused AS (
    SELECT message_id, conversation_id, seq, coalesce(dense, 0) AS dense, lexical / lexical_range AS words,
        coalesce((dense - dense_worst) / dense_range, 0) AS meaning,
        lexical / lexical_range + coalesce((dense - dense_worst) / dense_range, 0) AS own
    FROM scored, scale
), placed AS (
    SELECT *,
        (lag(words, 1, 0) OVER said + lag(words, 2, 0) OVER said) / 2 AS words_before,
        (lead(words, 1, 0) OVER said + lead(words, 2, 0) OVER said) / 2 AS words_after,
        (lead(meaning, 1, 0) OVER said + lead(meaning, 2, 0) OVER said) / 2 AS meaning_after,
        max(own) OVER (said ROWS BETWEEN {REACH} PRECEDING AND {REACH} FOLLOWING) AS around
    FROM fused WINDOW said AS (PARTITION BY conversation_id ORDER BY seq)
), best AS MATERIALIZED (
    SELECT * FROM placed WHERE $5::uuid IS NULL OR conversation_id <> $5 OR seq <= $6
    ORDER BY own + 0.5 * around DESC, seq LIMIT {POOL}
), best_told AS MATERIALIZED (
    SELECT id, coalesce(dense, 0) AS dense, lexical / lexical_range AS words,
        coalesce((dense - dense_worst) / dense_range, 0) AS meaning
    FROM told, scale
    ORDER BY lexical / lexical_range + coalesce((dense - dense_worst) / dense_range, 0) DESC, id LIMIT {FACTS}
)
-- in the order of `ranking.Candidate`; then what only the rendering needs; what is the same for all is in a row of its own
SELECT e.message_id AS id, 'episode' AS layer, e.conversation_id, e.seq, e.role, e.speaker, e.said_at, e.text, e.traits,
    e.known_words, b.words, b.meaning, b.words_before, b.words_after, b.meaning_after, b.around,
    NULL::uuid AS message_id, b.dense, NULL::real[] AS idfs, NULL::real AS lexical_best, NULL::real AS dense_best
FROM best AS b JOIN episodes AS e ON e.user_id = $1 AND e.message_id = b.message_id
UNION ALL
SELECT f.id, 'fact', f.conversation_id, f.source_seq, CASE f.kind WHEN 'companion' THEN 'assistant' ELSE 'user' END,
    NULL, f.said_at, f.text, 0, '', b.words, b.meaning, 0, 0, 0, 0, f.message_id, b.dense, NULL, NULL, NULL
FROM best_told AS b JOIN facts AS f ON f.user_id = $1 AND f.id = b.id
UNION ALL
SELECT NULL, 'asked', NULL, 0, '', NULL, NULL, '', 0, '', 0, 0, 0, 0, 0, 0, NULL, 0,
    question.idfs, scale.lexical_best, scale.dense_best
FROM question, scale
"""
