//! Reports -> bytes on a given writer: table, json, ndjson, csv, markdown, html.
