package gateway_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"sluice/gateway"
	"sluice/gateway/callbacks"
	"sluice/gateway/simulator"
	"sluice/gateway/store"
)

// untold is a store's directory in which the ends of some objects, all alice's, wait to be told to url.
func untold(t *testing.T, url string, objects ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	log := slog.New(slog.DiscardHandler)
	s, err := store.Open(t.Context(), store.Config{Dir: dir}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := callbacks.New(t.Context(), callbacks.Config{}, s, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		err := c.Enqueue(t.Context(), callbacks.Event{Owner: "key:alice", Object: object, Type: "batch.ended", URL: url + "/" + object, At: time.Now(),
			Data: json.RawMessage(`{"id":"` + object + `"}`)})
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

type callbackPage struct {
	Data []struct {
		ID, Type, Event, URL, Status string
		ObjectID                     string `json:"object_id"`
		Attempts                     int
		LastStatus                   *int       `json:"last_status"`
		LastError                    *string    `json:"last_error"`
		CreatedAt                    time.Time  `json:"created_at"`
		NextAttemptAt                *time.Time `json:"next_attempt_at"`
		EndedAt                      *time.Time `json:"ended_at"`
	}
	HasMore bool    `json:"has_more"`
	FirstID *string `json:"first_id"`
	LastID  *string `json:"last_id"`
}

func TestDeadLettersAreListedAndRedelivered(t *testing.T) {
	t.Parallel()
	type post struct {
		header http.Header
		body   []byte
		answer chan int
	}
	posts := make(chan post)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		p := post{r.Header, body, make(chan int)}
		posts <- p
		w.WriteHeader(<-p.answer)
	}))
	defer receiver.Close()
	dir := untold(t, receiver.URL+"/"+marker, "strm_1")
	h := openHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) {
		c.Store.Dir = dir
		c.Callbacks.AllowHosts = []string{receiver.Listener.Addr().String()}
	})
	var secret struct {
		Type, Secret string
		Others       []string `json:"other_secrets"`
	}
	h.do("GET", "/v1/callbacks/secret", "", "x-api-key", aliceKey).status(200).into(&secret)
	if secret.Type != "callback_secret" || !strings.HasPrefix(secret.Secret, "whsec_") || secret.Others == nil || len(secret.Others) != 0 {
		t.Errorf("%+v", secret)
	}
	reference, err := standardwebhooks.NewWebhook(secret.Secret)
	if err != nil {
		t.Fatal(err)
	}
	list := func(query, key string) (page callbackPage) {
		t.Helper()
		h.do("GET", "/v1/callbacks"+query, "", "x-api-key", key).status(200).into(&page)
		return page
	}

	first := receive(t, posts, "the callback")
	if err := reference.Verify(first.body, first.header); err != nil {
		t.Error(err)
	}
	if page := list("?status=pending", aliceKey); len(page.Data) != 1 || page.Data[0].NextAttemptAt == nil || page.Data[0].EndedAt != nil || page.Data[0].LastStatus != nil {
		t.Errorf("pending: %+v", page)
	}
	first.answer <- http.StatusGone
	h.becomes(`sluice_callbacks_total{outcome="failed"}`, 1)
	page := list("?status=failed", aliceKey)
	if len(page.Data) != 1 || page.HasMore || page.FirstID == nil || *page.FirstID != page.Data[0].ID {
		t.Fatalf("failed: %+v", page)
	}
	dead := page.Data[0]
	if dead.ID != first.header.Get("webhook-id") || dead.Type != "callback" || dead.Event != "batch.ended" || dead.ObjectID != "strm_1" || dead.Status != "failed" ||
		dead.Attempts != 1 || *dead.LastStatus != 410 || *dead.LastError == "" || dead.NextAttemptAt != nil || dead.EndedAt == nil || dead.CreatedAt.After(*dead.EndedAt) {
		t.Errorf("%+v", dead)
	}

	// Nobody else's business.
	if page := list("", bobKey); len(page.Data) != 0 || page.FirstID != nil {
		t.Errorf("bob sees %+v", page)
	}
	redeliver := "/v1/callbacks/" + dead.ID + "/redeliver"
	h.do("POST", redeliver, "", "x-api-key", bobKey).refused(404, "not_found_error")
	h.do("POST", redeliver, "", "x-api-key", "").refused(401, "authentication_error")
	h.do("GET", "/v1/callbacks", "", "x-api-key", "").refused(401, "authentication_error")
	h.do("GET", "/v1/callbacks/secret", "", "x-api-key", "").refused(401, "authentication_error")

	h.do("POST", redeliver, "", "x-api-key", aliceKey).status(200)
	second := receive(t, posts, "the callback again")
	if err := reference.Verify(second.body, second.header); err != nil || second.header.Get("webhook-id") != dead.ID || string(second.body) != string(first.body) {
		t.Errorf("%v: %v %s", err, second.header, second.body)
	}
	second.answer <- http.StatusNoContent
	h.becomes(`sluice_callbacks_total{outcome="delivered"}`, 1)
	h.becomes("sluice_callback_attempts_count", 2)
	if page := list("?status=delivered&limit=1", aliceKey); len(page.Data) != 1 || page.Data[0].Attempts != 2 || page.Data[0].LastError != nil {
		t.Errorf("delivered: %+v", page)
	}
	if strings.Contains(h.log.String(), "whsec_") {
		t.Error("the log tells a secret")
	}
}

func TestCallbacksArePagedAsStreamsAre(t *testing.T) {
	t.Parallel()
	objects := []string{"strm_a", "strm_b", "strm_c"}
	dir := untold(t, "https://10.0.0.1", objects...) // behind the fence, so they stay pending
	h := openHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) { c.Store.Dir = dir })
	var got []string
	query := "?limit=2"
	for more := true; more; {
		var page callbackPage
		h.do("GET", "/v1/callbacks"+query, "", "x-api-key", aliceKey).status(200).into(&page)
		for _, k := range page.Data {
			got = append(got, k.ObjectID)
		}
		more = page.HasMore
		if page.LastID == nil {
			t.Fatalf("%+v", page)
		}
		query = "?limit=2&after_id=" + *page.LastID
	}
	if strings.Join(got, " ") != "strm_c strm_b strm_a" {
		t.Errorf("%v", got)
	}
	for _, query := range []string{"?limit=0", "?limit=101", "?limit=x", "?status=dead"} {
		h.do("GET", "/v1/callbacks"+query, "", "x-api-key", aliceKey).refused(400, "invalid_request_error")
	}
	h.do("GET", "/v1/callbacks?after_id=cb_1", "", "x-api-key", aliceKey).refused(404, "not_found_error")
	h.do("POST", "/v1/callbacks/cb_1/redeliver", "", "x-api-key", aliceKey).refused(404, "not_found_error")
	h.do("POST", "/v1/callbacks", "", "x-api-key", aliceKey).refused(405, "invalid_request_error")
}

func TestConfiguredCallbackSecretsAreShownInTheirOrder(t *testing.T) {
	t.Parallel()
	h := openHouse(t, simulator.New(simulator.Options{}), func(c *gateway.Config) { c.Callbacks.Secrets = []string{"new", "old"} })
	type shown struct {
		Secret string
		Others []string `json:"other_secrets"`
	}
	var alice, bob shown
	h.do("GET", "/v1/callbacks/secret", "", "x-api-key", aliceKey).status(200).into(&alice)
	h.do("GET", "/v1/callbacks/secret", "", "x-api-key", bobKey).status(200).into(&bob)
	if len(alice.Others) != 1 || alice.Others[0] == alice.Secret || alice.Secret == bob.Secret || alice.Others[0] == bob.Others[0] {
		t.Errorf("%+v %+v", alice, bob)
	}
}
