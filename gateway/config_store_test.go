package gateway

import (
	"strings"
	"testing"
)

func TestStoreIsDescribedWithoutItsPassword(t *testing.T) {
	t.Parallel()
	c := Config{Store: Store{Dir: "data", NatsURL: "nats://sluice:hunter2@10.0.0.1:4222, tls://b.example"}}
	if d := c.Describe(); !strings.Contains(d, "store      at NATS, 10.0.0.1:4222 and b.example\n") || strings.Contains(d, "hunter2") {
		t.Errorf("%s", d)
	}
}

func TestStoreSettingsThatAreWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{dir: ""}`:                                  "c.yaml:1:9: store.dir: is empty; write the name of a directory, such as data",
		`{nats_url: "10.0.0.1:4222"}`:                `c.yaml:1:9: store.nats_url: "10.0.0.1:4222" is no NATS address; write it as in nats://10.0.0.1:4222`,
		`{nats_url: "nats://a, http://u:hunter2@b"}`: "c.yaml:1:9: store.nats_url: the value is no NATS address; write it as in nats://10.0.0.1:4222",
		`{nats_url: "nats://"}`:                      `c.yaml:1:9: store.nats_url: "nats://" is no NATS address; write it as in nats://10.0.0.1:4222`,
	} {
		_, _, err := ParseConfig("c.yaml", []byte("store: "+text), keyInEnv)
		if err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
}
