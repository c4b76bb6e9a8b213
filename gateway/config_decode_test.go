package gateway

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

const hashOfSecret = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"

// badInputs are texts and all that is said about them.
var badInputs = []struct {
	name, text string
	want       []string
}{
	{"typo", "server:\n  lisen: :80", []string{
		"c.yaml:2:3: server.lisen: unknown key; did you mean listen?",
	}},
	{"origin with a path", "server: {cors_origins: [\"https://a.example/app\"]}", []string{
		`c.yaml:1:25: server.cors_origins[0]: "https://a.example/app" has a path; an origin is scheme and host, as in https://app.example.com`,
	}},
	{"origin without a scheme", "server: {cors_origins: [a.example]}", []string{
		`c.yaml:1:25: server.cors_origins[0]: "a.example" has no scheme; write https://a.example`,
	}},
	{"origin twice", "server: {cors_origins: [\"https://a.example\", \"https://A.example:443\"]}", []string{
		`c.yaml:1:46: server.cors_origins[1]: "https://A.example:443" is given twice`,
	}},
	{"any origin and others", "server: {cors_origins: [\"*\", \"https://a.example\"]}", []string{
		`c.yaml:1:10: server.cors_origins: has "*" beside others; it stands for all, so write it alone or not at all`,
	}},
	{"certificate without key", "server:\n  tls: {cert_file: c.pem}", []string{
		"c.yaml:2:9: server.tls.key_file: is missing; server.tls.cert_file needs it",
	}},
	{"key without certificate", "server:\n  tls: {key_file: k.pem}", []string{
		"c.yaml:2:9: server.tls.cert_file: is missing; server.tls.key_file needs it",
	}},
	{"h2c of neither kind", "server: {h2c: sometimes}", []string{
		`c.yaml:1:10: server.h2c: "sometimes" is not one of true and false`,
	}},
	{"typo in a section", "upstraem: {}", []string{
		"c.yaml:1:1: upstraem: unknown key; did you mean upstream?",
	}},
	{"other spelling", "relay: {pingInterval: 1s}", []string{
		"c.yaml:1:9: relay.pingInterval: unknown key; did you mean ping_interval?",
	}},
	{"wrong place", "hold: 1s", []string{
		"c.yaml:1:1: hold: unknown key; did you mean relay.hold?",
	}},
	{"wrong indent", "relay:\n  messages: 3s", []string{
		"c.yaml:2:3: relay.messages: unknown key; did you mean relay.abandon_after.messages?",
	}},
	{"stranger", "log: {colour: red}", []string{
		"c.yaml:1:7: log.colour: unknown key; known here: format and level",
	}},
	{"odd key", "log: {\"a\\nb\": red}", []string{
		"c.yaml:1:7: log.?: unknown key; known here: format and level",
	}},
	{"no workers", "background: {concurrency: 0}", []string{
		`c.yaml:1:14: background.concurrency: "0" must be a whole number from 1 to 10000`,
	}},
	{"no retention", "background: {retention: 1s}", []string{
		`c.yaml:1:14: background.retention: "1s" is out of bounds; write a duration from 1m to 720h`,
	}},
	{"no directory", "store: {dir: ''}", []string{
		"c.yaml:1:9: store.dir: is empty; write a directory such as data",
	}},
	{"another protocol", "store: {nats_url: http://nats.internal}", []string{
		`c.yaml:1:9: store.nats_url: "http://nats.internal" is not a URL of NATS; write it as in nats://nats.internal:4222, several separated by commas`,
	}},
	{"one of two is none", "store: {nats_url: 'nats://u:hunter2@a:4222,nats://:4222'}", []string{
		"c.yaml:1:9: store.nats_url: the value names no host, or a port that is none; write it as in nats://nats.internal:4222",
	}},
	{"nats with a path", "store: {nats_url: nats://a/b}", []string{
		`c.yaml:1:9: store.nats_url: "nats://a/b" has a path, a query or a fragment; write it as in nats://nats.internal:4222`,
	}},
	{"twice", "log:\n  level: info\n  level: warn", []string{
		"c.yaml:3:3: log.level: is given twice; the first is on line 2",
	}},
	{"section twice", "log: {}\nrelay: {}\nlog: {}", []string{
		"c.yaml:3:1: log: is given twice; the first is on line 1",
	}},
	{"merge key", "plans:\n  default: &d {}\n  pro:\n    <<: *d", []string{
		"c.yaml:3:3: plans.pro: has a merge key (<<), which is not taken; write the keys out",
	}},
	{"list as map", "server: []", []string{
		"c.yaml:1:1: server: must be a map, not a list",
	}},
	{"text as root", "hello", []string{
		"c.yaml:1:1: must be a map, not a string",
	}},
	{"map as text", "server: {listen: {}}", []string{
		`c.yaml:1:10: server.listen: must be an address such as ":8080", not a map`,
	}},
	{"number as list", "auth: {keys: 7}", []string{
		"c.yaml:1:8: auth.keys: must be a list such as [{id: alice, key: …}], not a number",
	}},
	{"list as duration", "relay: {hold: [10s]}", []string{
		"c.yaml:1:9: relay.hold: must be a duration such as 90s, not a list",
	}},
	{"nothing", "server:\n  listen:", []string{
		`c.yaml:2:3: server.listen: has no value; write an address such as ":8080", or remove the line`,
	}},
	{"tag", "server: {listen: !!str \":80\"}", []string{
		"c.yaml:1:10: server.listen: has a YAML tag (!); write the value without",
	}},
	{"complex key", "? [a]\n: b", []string{
		"c.yaml:1:3: has a key that is not a plain word",
	}},

	{"no unit", "upstream:\n  stall_timeout: 180", []string{
		`c.yaml:2:3: upstream.stall_timeout: "180" has no unit; write 180s`,
	}},
	{"no unit, quoted", "relay: {abandon_after: {messages: \"15\"}}", []string{
		`c.yaml:1:25: relay.abandon_after.messages: "15" has no unit; write 15s, or never`,
	}},
	{"long unit", "server: {drain: 60sec}", []string{
		`c.yaml:1:10: server.drain: "60sec" has a unit that does not exist; write 60s`,
	}},
	{"days", "relay: {retention: 3d}", []string{
		`c.yaml:1:9: relay.retention: "3d" has a unit that does not exist; write 72h`,
	}},
	{"no duration", "relay: {hold: soon}", []string{
		`c.yaml:1:9: relay.hold: "soon" is not a duration; write it as in 90s, 10m or 1h30m`,
	}},
	{"zero", "relay: {ping_interval: 0s}", []string{
		`c.yaml:1:9: relay.ping_interval: "0s" is out of bounds; write a duration from 1ms to 720h`,
	}},
	{"negative", "server: {drain: -1s}", []string{
		`c.yaml:1:10: server.drain: "-1s" is out of bounds; write a duration from 0s to 720h`,
	}},
	{"too long", "upstream: {timeout: 9999h}", []string{
		`c.yaml:1:12: upstream.timeout: "9999h" is out of bounds; write a duration from 1ms to 720h`,
	}},
	{"never where it is not", "relay: {hold: never}", []string{
		`c.yaml:1:9: relay.hold: "never" is not a duration; write it as in 90s, 10m or 1h30m`,
	}},
	{"almost never", "relay: {abandon_after: {streams: forever}}", []string{
		`c.yaml:1:25: relay.abandon_after.streams: "forever" is not a duration; write it as in 90s, 10m or 1h30m, or never`,
	}},

	{"size without unit", "relay: {memory: 512}", []string{
		`c.yaml:1:9: relay.memory: "512" has no unit; write 512MB`,
	}},
	{"bytes without unit", "relay: {memory: 536870912}", []string{
		`c.yaml:1:9: relay.memory: "536870912" has no unit; write 536870912B`,
	}},
	{"size with wrong unit", "relay: {memory: 512Mb}", []string{
		`c.yaml:1:9: relay.memory: "512Mb" has a unit that does not exist; the units are B, kB, KiB, MB, MiB, GB and GiB; did you mean MB?`,
	}},
	{"no size", "relay: {memory: lots}", []string{
		`c.yaml:1:9: relay.memory: "lots" is not a size; write a whole number with a unit, as in 512MB`,
	}},
	{"small size", "relay: {memory: 1kB}", []string{
		`c.yaml:1:9: relay.memory: "1kB" is out of bounds; write a size from 1MB to 1048576GiB`,
	}},
	{"huge size", "relay: {memory: 999999999999999GiB}", []string{
		`c.yaml:1:9: relay.memory: "999999999999999GiB" is out of bounds; write a size from 1MB to 1048576GiB`,
	}},
	{"negative count", "plans: {default: {burst: -1}}", []string{
		`c.yaml:1:19: plans.default.burst: "-1" must be a whole number from 0 (no limit) to 1000000000`,
	}},
	{"fraction", "plans: {default: {burst: 1.5}}", []string{
		`c.yaml:1:19: plans.default.burst: "1.5" must be a whole number from 0 (no limit) to 1000000000`,
	}},
	{"huge count", "plans: {default: {concurrent_streams: 99999999999}}", []string{
		`c.yaml:1:19: plans.default.concurrent_streams: "99999999999" must be a whole number from 0 (no limit) to 1000000000`,
	}},
	{"no models", "plans: {default: {models: []}}", []string{
		"c.yaml:1:19: plans.default.models: is empty, and would allow no model; write them as in [claude-haiku-*, claude-sonnet-5], or remove the line to allow all",
	}},
	{"models without a value", "plans:\n  default:\n    models:", []string{
		"c.yaml:3:5: plans.default.models: is empty, and would allow no model; write them as in [claude-haiku-*, claude-sonnet-5], or remove the line to allow all",
	}},
	{"one model", "plans: {default: {models: claude-haiku-*}}", []string{
		"c.yaml:1:19: plans.default.models: must be a list such as [claude-haiku-*, claude-sonnet-5], not a string",
	}},
	{"models", "plans: {default: {models: [claude-*, \"claude-[34]\", \"{a,b}\", claude-*, \"\", \"a b\"]}}", []string{
		`c.yaml:1:38: plans.default.models[1]: "claude-[34]" is no model; write its name, with * for any characters and ? for one, as in claude-haiku-*`,
		`c.yaml:1:53: plans.default.models[2]: "{a,b}" is no model; write its name, with * for any characters and ? for one, as in claude-haiku-*`,
		`c.yaml:1:62: plans.default.models[3]: "claude-*" is given twice`,
		`c.yaml:1:72: plans.default.models[4]: is empty; write a model such as claude-haiku-*`,
		`c.yaml:1:76: plans.default.models[5]: "a b" is no model; write its name, with * for any characters and ? for one, as in claude-haiku-*`,
	}},
	{"tokens with a unit", "plans: {default: {tokens_per_day: 5M}}", []string{
		`c.yaml:1:19: plans.default.tokens_per_day: "5M" must be a whole number from 0 (no limit) to 1000000000`,
	}},
	{"burst alone", "plans: {default: {burst: 5}}", []string{
		"c.yaml:1:9: plans.default: has a burst but no requests_per_minute that it belongs to",
	}},

	{"port alone", "server: {listen: 8080}", []string{
		`c.yaml:1:10: server.listen: "8080" is no address; write ":8080"`,
	}},
	{"no port", "server: {listen: localhost}", []string{
		`c.yaml:1:10: server.listen: "localhost" is no address; write it as in ":8080"`,
	}},
	{"port too high", "server: {admin_listen: \":70000\"}", []string{
		`c.yaml:1:10: server.admin_listen: ":70000" has no port from 0 to 65535; write it as in "127.0.0.1:8081"`,
	}},
	{"no host name", "server: {listen: \"a b:80\"}", []string{
		`c.yaml:1:10: server.listen: "a b:80" names no host; write it as in ":8080"`,
	}},
	{"same address", "server: {listen: \":8080\", admin_listen: \":8080\"}", []string{
		"c.yaml:1:27: server.admin_listen: is the address of server.listen too; write another port",
	}},
	{"no scheme", "upstream: {base_url: api.anthropic.com}", []string{
		`c.yaml:1:12: upstream.base_url: "api.anthropic.com" has no scheme; write https://api.anthropic.com`,
	}},
	{"other scheme", "upstream: {base_url: \"ftp://a.example\"}", []string{
		`c.yaml:1:12: upstream.base_url: "ftp://a.example" is not an http or https URL; write it as in https://api.anthropic.com`,
	}},
	{"query", "upstream: {base_url: \"https://a.example/?key=hunter2\"}", []string{
		"c.yaml:1:12: upstream.base_url: the value has a query or a fragment; write it as in https://api.anthropic.com",
	}},
	{"credentials", "upstream: {base_url: \"https://u:hunter2@a.example\"}", []string{
		"c.yaml:1:12: upstream.base_url: the value has credentials in it; write it as in https://api.anthropic.com",
	}},
	{"credentials without scheme", "upstream: {base_url: \"u:hunter2@a.example\"}", []string{
		"c.yaml:1:12: upstream.base_url: the value is not an http or https URL; write it as in https://api.anthropic.com",
	}},
	{"with v1", "upstream: {base_url: \"https://api.anthropic.com/v1/\"}", []string{
		`c.yaml:1:12: upstream.base_url: "https://api.anthropic.com/v1/" ends in /v1, which each request's path begins with; write it without`,
	}},
	{"url without host", "upstream: {base_url: \"https://:80\"}", []string{
		`c.yaml:1:12: upstream.base_url: "https://:80" names no host; write it as in https://api.anthropic.com`,
	}},
	{"url port", "upstream: {base_url: \"https://a.example:99999\"}", []string{
		`c.yaml:1:12: upstream.base_url: "https://a.example:99999" has no port from 1 to 65535; write it as in https://api.anthropic.com`,
	}},
	{"url path", "upstream: {base_url: \"https://a.example/a/../b\"}", []string{
		`c.yaml:1:12: upstream.base_url: "https://a.example/a/../b" has a path that is not plain; write it as in https://api.anthropic.com`,
	}},
	{"public path", "server: {public_url: \"https://a.example/sluice\"}", []string{
		`c.yaml:1:10: server.public_url: "https://a.example/sluice" has a path; write only scheme and host, as in https://sluice.example.com`,
	}},
	{"forward path over a route of the gateway", "upstream: {forward_paths: [/v1/messages/batches]}", []string{
		`c.yaml:1:28: upstream.forward_paths[0]: "/v1/messages/batches" holds or lies below a route of the gateway's own (/v1/callbacks, /v1/messages, /v1/models, /v1/streams and /v1/usage), which checks its callers and counts their use`,
	}},
	{"forward path", "upstream: {forward_paths: [/v2/files, /v1/../x, /v1/a/, /v1/b, /v1/b]}", []string{
		`c.yaml:1:28: upstream.forward_paths[0]: "/v2/files" does not begin with /v1/; write it as in /v1/files`,
		`c.yaml:1:39: upstream.forward_paths[1]: "/v1/../x" is not a plain path; write it as in /v1/files`,
		`c.yaml:1:49: upstream.forward_paths[2]: "/v1/a/" is not a plain path; write it as in /v1/files`,
		`c.yaml:1:64: upstream.forward_paths[4]: "/v1/b" is given twice`,
	}},
	{"proxies", "auth: {trusted_proxies: [proxy, 10.0.0.1/8, \"::ffff:10.0.0.0/104\", \"fe80::1%eth0\"]}", []string{
		`c.yaml:1:26: auth.trusted_proxies[0]: "proxy" is neither an address nor a network; write it as in 10.0.0.0/8 or 192.0.2.1`,
		`c.yaml:1:33: auth.trusted_proxies[1]: "10.0.0.1/8" names a host and a network; write 10.0.0.0/8 or 10.0.0.1`,
		`c.yaml:1:45: auth.trusted_proxies[2]: "::ffff:10.0.0.0/104" is an IPv4 network in IPv6 clothes; write it as in 10.0.0.0/8`,
		`c.yaml:1:68: auth.trusted_proxies[3]: "fe80::1%eth0" is neither an address nor a network; write it as in 10.0.0.0/8 or 192.0.2.1`,
	}},
	{"both kinds of tokens", "auth:\n  jwt:\n    secret: 0123456789abcdef0123456789abcdef\n    jwks_url: https://a.example/keys", []string{
		"c.yaml:4:5: auth.jwt.jwks_url: is set, and auth.jwt.secret too; tokens are signed with one or the other, so remove one",
	}},
	{"tokens of no kind", "auth:\n  jwt: {issuer: a, audience: b, user_claim: c, plan_claim: d, cookie: e}", []string{
		"c.yaml:2:9: auth.jwt.issuer: is set, but neither auth.jwt.secret nor auth.jwt.jwks_url, so no token is taken; set one of them",
		"c.yaml:2:20: auth.jwt.audience: is set, but neither auth.jwt.secret nor auth.jwt.jwks_url, so no token is taken; set one of them",
		"c.yaml:2:33: auth.jwt.user_claim: is set, but neither auth.jwt.secret nor auth.jwt.jwks_url, so no token is taken; set one of them",
		"c.yaml:2:48: auth.jwt.plan_claim: is set, but neither auth.jwt.secret nor auth.jwt.jwks_url, so no token is taken; set one of them",
		"c.yaml:2:63: auth.jwt.cookie: is set, but neither auth.jwt.secret nor auth.jwt.jwks_url, so no token is taken; set one of them",
	}},
	{"keys without TLS", "auth: {jwt: {jwks_url: \"http://login.example.com/keys\"}}", []string{
		`c.yaml:1:14: auth.jwt.jwks_url: "http://login.example.com/keys" is not https; whoever changes the keys on their way could be any user`,
	}},
	{"keys from a file", "auth: {jwt: {jwks_url: \"file:///etc/passwd\"}}", []string{
		`c.yaml:1:14: auth.jwt.jwks_url: "file:///etc/passwd" is not an https URL; write it as in https://login.example.com/.well-known/jwks.json`,
	}},
	{"keys from nowhere", "auth: {jwt: {jwks_url: \"https:///keys\"}}", []string{
		`c.yaml:1:14: auth.jwt.jwks_url: "https:///keys" is not an https URL; write it as in https://login.example.com/.well-known/jwks.json`,
	}},
	{"keys with credentials", "auth: {jwt: {jwks_url: \"https://u:hunter2@a.example/keys\"}}", []string{
		"c.yaml:1:14: auth.jwt.jwks_url: the value has credentials in it; write it as in https://login.example.com/.well-known/jwks.json",
	}},
	{"secret with a line break", "auth: {jwt: {secret: \"hunter2\\n\"}}", []string{
		"c.yaml:1:14: auth.jwt.secret: has a line break or another control character, which hardly belongs to it",
	}},
	{"no claim", "auth: {jwt: {secret: 0123456789abcdef0123456789abcdef, user_claim: \"\"}}", []string{
		"c.yaml:1:56: auth.jwt.user_claim: is empty; write sub",
	}},
	{"claim with a space", "auth: {jwt: {secret: 0123456789abcdef0123456789abcdef, user_claim: \" sub\"}}", []string{
		`c.yaml:1:56: auth.jwt.user_claim: " sub" has spaces around it, a line break, or more than 1000 bytes; write it as in sub`,
	}},
	{"cookie", "auth: {jwt: {secret: 0123456789abcdef0123456789abcdef, cookie: \"a=b;\"}}", []string{
		"c.yaml:1:56: auth.jwt.cookie: the value is not the name of a cookie; write it as in session",
	}},
	{"user header without proxies", "auth: {user_header: X-User}", []string{
		"c.yaml:1:8: auth.user_header: is set, but auth.trusted_proxies is empty: nobody is believed who sends it; write the proxy's address there",
	}},
	{"user header from everybody", "auth: {user_header: X-User, trusted_proxies: [10.0.0.1, \"::/0\"]}", []string{
		"c.yaml:1:57: auth.trusted_proxies[1]: trusts everybody, and auth.user_header is set: anyone could be any user; write the proxies' addresses",
	}},
	{"user header of another use", "auth: {user_header: x-forwarded-for, trusted_proxies: [10.0.0.1]}", []string{
		`c.yaml:1:8: auth.user_header: "x-forwarded-for" is what callers send for another purpose; write a header that only the proxy sets, as in X-Forwarded-User`,
	}},
	{"user header", "auth: {user_header: \"X User\", trusted_proxies: [10.0.0.1]}", []string{
		`c.yaml:1:8: auth.user_header: "X User" is not the name of a header; write it as in X-Forwarded-User`,
	}},
	{"anonymous plan", "auth: {anonymous_plan: free}", []string{
		"c.yaml:1:8: auth.anonymous_plan: names a plan that does not exist; the plans are: default",
	}},
	{"no default plan for tokens", "plans: {free: {}}\nauth: {jwt: {secret: 0123456789abcdef0123456789abcdef}}", []string{
		"c.yaml:1:1: auth.default_plan: names a plan that does not exist; the plans are: free",
	}},
	{"no default plan for a proxy's users", "plans: {free: {}}\nauth: {user_header: X-User, trusted_proxies: [10.0.0.1]}", []string{
		"c.yaml:1:1: auth.default_plan: names a plan that does not exist; the plans are: free",
	}},
	{"level", "log: {level: warning}", []string{
		`c.yaml:1:7: log.level: "warning" is not one of debug, info, warn and error; did you mean warn?`,
	}},
	{"format", "log: {format: xml}", []string{
		`c.yaml:1:7: log.format: "xml" is not one of text and json`,
	}},

	{"empty api key", "upstream: {api_key: \"\"}", []string{
		`c.yaml:1:12: upstream.api_key: is empty; write "${ANTHROPIC_API_KEY}" and set that variable`,
	}},
	{"api key with a space", "upstream: {api_key: \"hunter2 \"}", []string{
		"c.yaml:1:12: upstream.api_key: has a space, a line break or a character that is not ASCII; no key has",
	}},
	{"unset variable", "upstream:\n  api_key: ${NO_SUCH}", []string{
		"c.yaml:2:3: upstream.api_key: ${NO_SUCH} is not set in the environment, and this needs a value",
	}},
	{"variable set to nothing", "upstream:\n  api_key: ${NOTHING}", []string{
		"c.yaml:2:3: upstream.api_key: ${NOTHING} is set to nothing, and this needs a value",
	}},
	{"unset in the middle", "server: {public_url: \"https://${NO_SUCH}\"}", []string{
		`c.yaml:1:10: server.public_url: the value of "https://${NO_SUCH}" names no host; write it as in https://sluice.example.com (${NO_SUCH} is not set)`,
	}},
	{"variable without end", "log: {format: \"${A\"}", []string{
		"c.yaml:1:7: log.format: has a ${ without its }; write $${ for the characters themselves",
	}},
	{"variable with default", "log: {format: \"${A:-text}\"}", []string{
		"c.yaml:1:7: log.format: has a ${…} that names no variable; write ${NAME}, or $${ for the characters themselves",
	}},
	{"secret in the wrong variable", "relay: {hold: \"${SECRET}\", memory: \"${SECRET}\"}\nserver: {listen: \"${SECRET}\"}", []string{
		`c.yaml:1:9: relay.hold: the value of "${SECRET}" is not a duration; write it as in 90s, 10m or 1h30m`,
		`c.yaml:1:28: relay.memory: the value of "${SECRET}" is not a size; write a whole number with a unit, as in 512MB`,
		`c.yaml:2:10: server.listen: the value of "${SECRET}" is no address; write it as in ":8080"`,
	}},
	{"secret in the wrong place", "log: {level: sk-hunter2, sk-hunter2: 1}", []string{
		"c.yaml:1:7: log.level: the value is not one of debug, info, warn and error",
		"c.yaml:1:26: log.?: unknown key; known here: format and level",
	}},

	{"key without id", "auth:\n  keys:\n    - key: sha256:" + hashOfSecret, []string{
		"c.yaml:3:7: auth.keys[0]: has no id; `sluice key` prints a whole entry",
	}},
	{"key without key", "auth: {keys: [{id: alice}]}", []string{
		"c.yaml:1:15: auth.keys[0]: has no key; `sluice key` prints a whole entry",
	}},
	{"empty id", "auth: {keys: [{id: \"\", key: hunter2}]}", []string{
		"c.yaml:1:16: auth.keys[0].id: is empty; write a name such as alice",
	}},
	{"id and key swapped", "auth: {keys: [{key: alice, id: \"hunter2:\"}]}", []string{
		"c.yaml:1:28: auth.keys[0].id: must be 1 to 64 of A-Z, a-z, 0-9, dot, dash and underscore",
	}},
	{"key as name", "auth: {keys: [{hunter2: alice}]}", []string{
		"c.yaml:1:15: auth.keys[0]: has no id; `sluice key` prints a whole entry",
		"c.yaml:1:15: auth.keys[0]: has no key; `sluice key` prints a whole entry",
		"c.yaml:1:16: auth.keys[0].?: unknown key; known here: id, key and plan",
	}},
	{"key as item", "auth: {keys: [hunter2]}", []string{
		"c.yaml:1:15: auth.keys[0]: must be a map such as {id: alice, key: …}, not a string",
	}},
	{"short hash", "auth: {keys: [{id: a, key: \"sha256:abc\"}]}", []string{
		"c.yaml:1:23: auth.keys[0].key: has no 64 hex digits after sha256:; write what `sluice key` prints",
	}},
	{"key with a line break", "auth: {keys: [{id: a, key: \"hunter2\\n\"}]}", []string{
		"c.yaml:1:23: auth.keys[0].key: has a space, a line break or a character that is not ASCII; no header can carry it",
	}},
	{"same id", "auth:\n  keys:\n  - {id: a, key: hunter2}\n  - {id: a, key: hunter3}", []string{
		"c.yaml:4:6: auth.keys[1].id: is the id of the key on line 3 too; each needs its own",
	}},
	{"same key", "auth:\n  keys:\n  - {id: a, key: secret}\n  - {id: b, key: \"sha256:" + hashOfSecret + "\"}", []string{
		"c.yaml:4:13: auth.keys[1].key: is the same key as on line 3; each caller needs its own",
	}},
	{"no such plan", "auth: {keys: [{id: a, key: hunter2, plan: pro}]}\nplans: {default: {}, team: {}}", []string{
		"c.yaml:1:37: auth.keys[0].plan: names a plan that does not exist; the plans are: default and team",
	}},
	{"no default plan", "plans: {free: {}}\nauth: {keys: [{id: a, key: hunter2}]}", []string{
		"c.yaml:1:1: auth.default_plan: names a plan that does not exist; the plans are: free",
	}},
	{"default plan", "auth: {default_plan: gold}", []string{
		"c.yaml:1:8: auth.default_plan: names a plan that does not exist; the plans are: default",
	}},
	{"empty plan", "plans: {default: }", []string{
		"c.yaml:1:9: plans.default: has no value; write {} for a plan without limits",
	}},
	{"plan name", "plans: {default: {}, \"a b\": {}}", []string{
		"c.yaml:1:22: plans.?: a plan's name must be 1 to 64 of A-Z, a-z, 0-9, dot, dash and underscore",
	}},

	{"queue as long as the hold", "upstream: {queue_wait: 10s}", []string{
		"c.yaml:1:12: upstream.queue_wait: is 10s, and relay.hold is 10s; who waits in vain is refused with a status only if the hold is longer, so write a shorter wait or a longer hold",
	}},
	{"hold shorter than the queue", "relay: {hold: 5s}\nupstream: {queue_wait: 8s}", []string{
		"c.yaml:2:12: upstream.queue_wait: is 8s, and relay.hold is 5s; who waits in vain is refused with a status only if the hold is longer, so write a shorter wait or a longer hold",
	}},
	{"no hold, but a queue", "relay: {hold: 0}\nupstream: {queue_wait: 1ms}", []string{
		"c.yaml:2:12: upstream.queue_wait: is 1ms, and relay.hold is 0s; who waits in vain is refused with a status only if the hold is longer, so write a shorter wait or a longer hold",
	}},
	{"queue without a bound", "upstream: {queue_wait: never, max_concurrent: -1}", []string{
		`c.yaml:1:12: upstream.queue_wait: "never" is not a duration; write it as in 90s, 10m or 1h30m`,
		`c.yaml:1:31: upstream.max_concurrent: "-1" must be a whole number from 0 (no limit) to 1000000000`,
	}},

	{"two documents", "log: {}\n---\nlog: {}", []string{
		"c.yaml:2:1: is a second document; a configuration is one, so remove the --- before it",
	}},
	{"tab", "server:\n\tlisten: :80", []string{
		"c.yaml:2: is not YAML: found character that cannot start any token (indent with spaces, not tabs; quote a value that begins with @, ` or %)",
	}},
	{"unclosed, further down", "log: {}\nserver: {listen: x\nrelay: {}", []string{
		"c.yaml:2: is not YAML: did not find expected ',' or '}' (look for a wrong indent or a missing quote, here and above)",
	}},
	{"stray line", "log: {}\nsecret hunter2\nrelay: {}", []string{
		"c.yaml:2: is not YAML: could not find expected ':' (look for a wrong indent or a missing quote, here and above)",
	}},
	{"bad indent", "log: {}\n  level: info", []string{
		"c.yaml:2: is not YAML: did not find expected key (look for a wrong indent or a missing quote, here and above)",
	}},
	{"control character", "log: {}\n\x01", []string{
		"c.yaml:2:1: is not UTF-8 text, or is a control character; save the file as UTF-8",
	}},
	{"unclosed", "server: {listen: :80", []string{
		"c.yaml:1: is not YAML: did not find expected node content (look for a wrong indent or a missing quote, here and above)",
	}},
	{"not UTF-8", "log:\n  level: \xff", []string{
		"c.yaml:2:10: is not UTF-8 text, or is a control character; save the file as UTF-8",
	}},
	{"unknown alias", "upstream:\n  api_key: *hunter2", []string{
		"c.yaml:2:12: is an alias that names no anchor; put a value that begins with * in quotes",
	}},
	{"sorted", "log: {level: a, format: b}\nserver: {drain: c}", []string{
		`c.yaml:1:7: log.level: "a" is not one of debug, info, warn and error`,
		`c.yaml:1:17: log.format: "b" is not one of text and json`,
		`c.yaml:2:10: server.drain: "c" is not a duration; write it as in 90s, 10m or 1h30m`,
	}},
}

var badEnv = fakeEnv("ANTHROPIC_API_KEY=x", "NOTHING=", "SECRET=hunter2")

func TestBadInputsSayWhereWhatAndWhatWouldBeRight(t *testing.T) {
	for _, test := range badInputs {
		_, _, err := ParseConfig("c.yaml", []byte(test.text), badEnv)
		if got := fmt.Sprint(err); got != strings.Join(test.want, "\n") {
			t.Errorf("%s:\n got %s\nwant %s", test.name, got, strings.Join(test.want, "\n     "))
		}
	}
}

// Each "hunter" above stands where a secret may.
func TestNoMessageShowsASecret(t *testing.T) {
	for _, test := range badInputs {
		_, warnings, err := ParseConfig("c.yaml", []byte(test.text), badEnv)
		if said := fmt.Sprint(err, warnings); strings.Contains(said, "hunter") {
			t.Errorf("%s: %s", test.name, said)
		}
	}
}

func TestLongErrorsAreCut(t *testing.T) {
	text := "log:\n" + strings.Repeat("  level: x\n", 30)
	_, _, err := ParseConfig("c.yaml", []byte(text), badEnv)
	var e *ConfigError
	if !errors.As(err, &e) || len(e.Problems) != 30 {
		t.Fatalf("%T with not all problems: %v", err, err)
	}
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 21 || lines[20] != "and 10 more" {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
}

// Each of these is small to write and would be a lot to walk.
func TestLargeFilesAreNoWork(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"aliases": {"plans:\n  a: &a {" + strings.Repeat("x: 1, ", 500) + "}\n" + strings.Repeat("  b: *a\n", 5_000), "is given twice"},
		"aliases of plans": {"plans:\n  a: &a {burst: 0, requests_per_minute: 0}\n" + manyPlans(40_000, "*a"),
			"has more than 100000 values"},
		"itself": {"plans: &a\n  default: {}\n  b: *a\n", "unknown key"},
		"depth":  {"log: " + strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000), "must be a map"},
		"size":   {strings.Repeat("#", maxConfigBytes+1), "is longer than"},
		"list":   {"upstream: {forward_paths: [" + strings.Repeat("x,", 100_000) + "]}", "does not begin with"},
	} {
		_, _, err := ParseConfig("c.yaml", []byte(test.text), badEnv)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %.300v", name, err)
		}
	}
}

func manyPlans(n int, value string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "  p%d: %s\n", i, value)
	}
	return b.String()
}
