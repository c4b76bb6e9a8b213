package gateway

import (
	"reflect"
	"strings"
	"testing"
)

func TestCallbackSettingsAreTaken(t *testing.T) {
	t.Parallel()
	const first, second = "0123456789abcdef0123456789abcdef", "a second one of more than 32 characters"
	got, warnings := mustParse(t, `
auth: {keys: [{id: a, key: "${KEY}"}]}
callbacks:
  secrets: ["${SECRET}", `+second+`]
  allow_hosts: [Receiver.Internal, "receiver.internal:8443", 10.0.0.1, "10.0.0.1:80", "[::1]:80", "::1", "[0:0::1]"]
  allow_private: false
`, fakeEnv("ANTHROPIC_API_KEY=x", "KEY=k", "SECRET="+first))
	want := Callbacks{Secrets: []string{first, second},
		AllowHosts: []string{"receiver.internal", "receiver.internal:8443", "10.0.0.1", "10.0.0.1:80", "[::1]:80", "::1", "::1"}}
	if !reflect.DeepEqual(got.Callbacks, want) {
		t.Errorf("\n got %+v\nwant %+v", got.Callbacks, want)
	}
	checkWarnings(t, warnings)
	line := "callbacks  signed with the first of 2 configured secrets; only to public addresses, over https, and to receiver.internal, "
	if d := got.Describe(); !strings.Contains(d, line) || strings.Contains(d, first) || strings.Contains(d, second) {
		t.Errorf("%s", d)
	}
}

func TestCallbackSettingsThatAreWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{secrets: hunter2}`:                   `c.yaml:1:13: callbacks.secrets: must be a list such as ["${SLUICE_CALLBACK_SECRET}"], not a string`,
		`{secrets: ["${NO_SUCH}"]}`:            "c.yaml:1:23: callbacks.secrets[0]: ${NO_SUCH} is not set in the environment, and this needs a value",
		`{secrets: [hunter2, hunter2]}`:        "c.yaml:1:32: callbacks.secrets[1]: is given twice",
		`{allow_hosts: ["https://a.example"]}`: `c.yaml:1:27: callbacks.allow_hosts[0]: "https://a.example" is no host; write it as in receiver.internal or receiver.internal:8443`,
		`{allow_hosts: ["a.example:0"]}`:       `c.yaml:1:27: callbacks.allow_hosts[0]: "a.example:0" is no host; write it as in receiver.internal or receiver.internal:8443`,
		`{allow_hosts: ["a.example/hook"]}`:    `c.yaml:1:27: callbacks.allow_hosts[0]: "a.example/hook" is no host; write it as in receiver.internal or receiver.internal:8443`,
		`{allow_hosts: ["*.example"]}`:         `c.yaml:1:27: callbacks.allow_hosts[0]: "*.example" is no host; write it as in receiver.internal or receiver.internal:8443`,
		`{allow_hosts: ["10.0.0.0/8"]}`:        `c.yaml:1:27: callbacks.allow_hosts[0]: "10.0.0.0/8" is no host; write it as in receiver.internal or receiver.internal:8443`,
		`{allow_hosts: ["fe80::1%eth0"]}`:      `c.yaml:1:27: callbacks.allow_hosts[0]: "fe80::1%eth0" is no host; write it as in receiver.internal or receiver.internal:8443`,
		`{allow_private: yes}`:                 `c.yaml:1:13: callbacks.allow_private: "yes" is not one of true and false`,
		`{secret: [a]}`:                        "c.yaml:1:13: callbacks.secret: unknown key; did you mean secrets?",
	} {
		_, _, err := ParseConfig("c.yaml", []byte("callbacks: "+text), keyInEnv)
		if err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
}

func TestCallbackSettingsThatAreRisky(t *testing.T) {
	t.Parallel()
	got, warnings := mustParse(t, `
auth: {keys: [{id: a, key: "${KEY}"}]}
callbacks: {secrets: [hunter2], allow_private: true}
`, fakeEnv("ANTHROPIC_API_KEY=x", "KEY=k"))
	checkWarnings(t, warnings,
		"c.yaml:3:23: callbacks.secrets[0]: is shorter than 32 characters and may be guessed; write what `openssl rand -hex 32` prints",
		"c.yaml:3:33: callbacks.allow_private: lets everybody who may call send requests into your private network; allow_hosts names single hosts")
	if line := "callbacks  signed with the configured secret; also to private addresses, over https\n"; !strings.Contains(got.Describe(), line) {
		t.Errorf("%s", got.Describe())
	}
}
