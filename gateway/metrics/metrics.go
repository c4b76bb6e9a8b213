// Package metrics holds every time series that Sluice exports, in one place.
//
// The other rooms speak to it in verbs (StreamStarted, Ping, …), so that what a series means is decided here. All
// methods may be called at once from any goroutine; on a nil *Metrics they do nothing. Label values come from closed
// sets: a route pattern, a status code, a name of this file, or a model that the upstream has accepted.
package metrics

import (
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// maxModels bounds the values of the model label. The upstream decides which models exist; this only guards against an
// upstream that accepts any string. Anthropic lists some twenty.
const maxModels = 200

// Metrics is the registry and its series.
type Metrics struct {
	registry *prometheus.Registry

	httpRequests     *prometheus.CounterVec
	streamsActive    prometheus.Gauge
	streams          *prometheus.CounterVec
	viewersActive    prometheus.Gauge
	viewerEvents     prometheus.Counter
	viewerCoalesced  prometheus.Counter
	viewersEnded     *prometheus.CounterVec
	firstEvent       *prometheus.HistogramVec
	eventGap         prometheus.Histogram
	relayDelay       prometheus.Histogram
	resumes          *prometheus.CounterVec
	pings            prometheus.Counter
	tokens           *prometheus.CounterVec
	upstreamRequests *prometheus.CounterVec
	upstreamRetries  *prometheus.CounterVec
	queueDepth       atomic.Pointer[func() int]
	queueWait        prometheus.Histogram
	rateLimited      *prometheus.CounterVec
	authFailures     *prometheus.CounterVec
	logBytes         prometheus.Gauge
	backgroundDepth  prometheus.Gauge
	backgroundTries  *prometheus.CounterVec
	logs             prometheus.Gauge
	configReloads    *prometheus.CounterVec
	configGood       prometheus.Gauge
	configGoodAt     prometheus.Gauge
	callbacks        *prometheus.CounterVec
	callbackAttempts prometheus.Histogram
	batches          *prometheus.GaugeVec
	batchPolls       *prometheus.CounterVec

	mu     sync.Mutex
	models map[string]bool
}

// New registers all series. version is the value of build_info.
func New(version string) *Metrics {
	r := prometheus.NewRegistry()
	m := &Metrics{registry: r, models: make(map[string]bool)}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "sluice", Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "sluice", Name: name, Help: help}, labels)
		r.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sluice", Name: name, Help: help})
		r.MustRegister(g)
		return g
	}
	m.httpRequests = counters("http_requests_total", "Requests answered, by route pattern, method and status.", "route", "method", "code")
	m.streamsActive = gauge("streams_active", "Streams that have not ended.")
	m.streams = counters("streams_total", "Streams that have ended, by model and outcome.", "model", "outcome")
	m.viewersActive = gauge("viewers_active", "Connections that are reading a stream.")
	m.viewerEvents = counter("viewer_events_total", "Events of the logs delivered to viewers, each counted once per viewer, merged or not.")
	m.viewerCoalesced = counter("viewer_coalesced_events_total", "Events delivered to viewers that were behind as a part of a merged event.")
	m.viewersEnded = counters("viewers_ended_total", "Viewers that have ended, by reason.", "reason")
	m.firstEvent = prometheus.NewHistogramVec(histogram("time_to_first_event_seconds", "From the request to the upstream's headers, message_start and first delta.",
		[]float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}), []string{"stage"})
	m.eventGap = prometheus.NewHistogram(histogram("event_gap_seconds", "Between two events of one stream as they arrive from the upstream.",
		[]float64{.001, .01, .05, .1, .25, 1, 5, 15, 60}))
	m.relayDelay = prometheus.NewHistogram(histogram("relay_delay_seconds", "From reading an event from the upstream to having written it to a viewer's socket.",
		[]float64{.0001, .00025, .0005, .001, .0025, .005, .01, .05, .25, 1, 10}))
	m.queueWait = prometheus.NewHistogram(histogram("upstream_queue_wait_seconds", "From asking for a place at the upstream to having one, for each attempt that got one.",
		[]float64{.001, .01, .1, .5, 1, 2, 4, 8, 60}))
	r.MustRegister(m.firstEvent, m.eventGap, m.relayDelay, m.queueWait)
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "sluice", Name: "upstream_queue_depth", Help: "Requests that wait for a place at the upstream."}, m.waiting))
	m.resumes = counters("resumes_total", "Attaches to a stream with a cursor, by what they met.", "kind")
	m.pings = counter("pings_total", "Pings sent to viewers.")
	m.tokens = counters("tokens_total", "Tokens of ended answers, by model, kind and source of the figure.", "model", "kind", "source")
	m.upstreamRequests = counters("upstream_requests_total", "Requests to the upstream, by status; 0 where no status arrived.", "code")
	m.upstreamRetries = counters("upstream_retries_total", "Requests to the upstream that were repeated, by reason.", "reason")
	m.rateLimited = counters("rate_limited_total", "Requests refused by a limit of a plan or for want of a place at the upstream, and streams ended by a limit.", "limit")
	m.authFailures = counters("auth_failures_total", "Requests refused for their credentials.", "kind")
	m.logBytes = gauge("log_bytes", "Memory of all event logs and held request bodies.")
	m.logs = gauge("logs", "Event logs in memory.")
	m.configReloads = counters("config_reloads_total", "Reloads of the configuration, by outcome: applied or refused.", "outcome")
	for _, outcome := range []string{reloadApplied, reloadRefused} {
		m.configReloads.WithLabelValues(outcome) // so that the first one is an increase
	}
	m.configGood = gauge("config_last_reload_successful", "Whether the last reload of the configuration was applied; 1 from the start on.")
	m.configGoodAt = gauge("config_last_reload_success_timestamp_seconds", "When the configuration in force was read.")
	m.configGood.Set(1)
	m.configGoodAt.SetToCurrentTime()
	m.callbacks = counters("callbacks_total", "Attempts at callbacks, by outcome: delivered, retried, failed (given up).", "outcome")
	m.callbackAttempts = prometheus.NewHistogram(histogram("callback_attempts", "Attempts that a callback took until it was delivered or given up.",
		[]float64{1, 2, 3, 5, 10, 15, 20, 30}))
	m.batches = prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "sluice", Name: "batches", Help: "Message Batches that are watched, by status."}, []string{"status"})
	r.MustRegister(m.callbackAttempts, m.batches)
	m.batchPolls = counters("batch_polls_total", "Questions to the upstream about unfinished batches, by outcome: changed, unchanged, failed, lost.", "outcome")
	m.backgroundDepth = gauge("background_queue_depth", "Background streams that have been accepted and have not ended.")
	m.backgroundTries = counters("background_attempts_total", "Attempts at background streams, by how they ended.", "outcome")
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "sluice", Name: "build_info", Help: "1, labelled with the version."}, []string{"version"})
	r.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	info.WithLabelValues(version).Set(1)
	return m
}

// histogram describes a native histogram (growth factor 1.1: quantiles within 5 %) that also has classic buckets, for
// scrapers that don't negotiate the native kind.
func histogram(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Namespace: "sluice", Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour}
}

// Handler serves the exposition format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

// HTTPRequest counts an answered request; route is the pattern that matched, never the path.
func (m *Metrics) HTTPRequest(route, method string, code int) {
	if m == nil {
		return
	}
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		method = "other"
	}
	m.httpRequests.WithLabelValues(route, method, strconv.Itoa(code)).Inc()
}

// StreamStarted counts a stream that is admitted.
func (m *Metrics) StreamStarted() {
	if m != nil {
		m.streamsActive.Inc()
	}
}

// StreamEnded counts a stream's end: completed, failed, canceled or abandoned. model is empty where the upstream had
// accepted none.
func (m *Metrics) StreamEnded(model, outcome string) {
	if m != nil {
		m.streamsActive.Dec()
		m.streams.WithLabelValues(m.model(model), outcome).Inc()
	}
}

// StreamParted counts a stream that was begun, and is given back to the queue that it came from.
func (m *Metrics) StreamParted() {
	if m != nil {
		m.streamsActive.Dec()
	}
}

// ViewerAttached counts a connection that begins to read.
func (m *Metrics) ViewerAttached() {
	if m != nil {
		m.viewersActive.Inc()
	}
}

// ViewerEnded counts its end; reason is a relay.EndReason.
func (m *Metrics) ViewerEnded(reason string) {
	if m != nil {
		m.viewersActive.Dec()
		m.viewersEnded.WithLabelValues(reason).Inc()
	}
}

// Delivered counts events written to a viewer, and how many of them went in merged frames.
func (m *Metrics) Delivered(events, coalesced int) {
	if m == nil {
		return
	}
	m.viewerEvents.Add(float64(events))
	if coalesced > 0 {
		m.viewerCoalesced.Add(float64(coalesced))
	}
}

// RelayDelay observes the time between reading an event and having written it to a viewer that is live.
func (m *Metrics) RelayDelay(d time.Duration) {
	if m != nil {
		m.relayDelay.Observe(d.Seconds())
	}
}

// Stages of the time to the first event.
const (
	StageHeaders      = "headers"
	StageMessageStart = "message_start"
	StageFirstDelta   = "first_delta"
)

// FirstEvent observes when a stage was reached, counted from the request.
func (m *Metrics) FirstEvent(stage string, d time.Duration) {
	if m != nil {
		m.firstEvent.WithLabelValues(stage).Observe(d.Seconds())
	}
}

// EventGap observes the time between two events of one stream.
func (m *Metrics) EventGap(d time.Duration) {
	if m != nil {
		m.eventGap.Observe(d.Seconds())
	}
}

// Resumed counts an attach that brought a cursor: exact, resync, done or lost.
func (m *Metrics) Resumed(kind string) {
	if m != nil {
		m.resumes.WithLabelValues(kind).Inc()
	}
}

// Ping counts a ping sent.
func (m *Metrics) Ping() {
	if m != nil {
		m.pings.Inc()
	}
}

// Tokens counts what an answer used. kind: input, output, cache_read, cache_write; source: reported, estimated.
func (m *Metrics) Tokens(model, kind, source string, n int64) {
	if m != nil && n > 0 {
		m.tokens.WithLabelValues(m.model(model), kind, source).Add(float64(n))
	}
}

// UpstreamRequest counts an attempt at the upstream; code 0 means that no status arrived.
func (m *Metrics) UpstreamRequest(code int) {
	if m != nil {
		m.upstreamRequests.WithLabelValues(strconv.Itoa(code)).Inc()
	}
}

// UpstreamRetry counts a repeated attempt: connection, overloaded_first, or a status.
func (m *Metrics) UpstreamRetry(reason string) {
	if m != nil {
		m.upstreamRetries.WithLabelValues(reason).Inc()
	}
}

// WatchUpstreamQueue lets depth say, whenever it is asked for, how many requests wait for a place at the upstream.
func (m *Metrics) WatchUpstreamQueue(depth func() int) {
	if m != nil {
		m.queueDepth.Store(&depth)
	}
}

func (m *Metrics) waiting() float64 {
	if depth := m.queueDepth.Load(); depth != nil {
		return float64((*depth)())
	}
	return 0
}

// UpstreamQueueLeft observes how long an attempt has waited for the place at the upstream that it got.
func (m *Metrics) UpstreamQueueLeft(d time.Duration) {
	if m != nil {
		m.queueWait.Observe(d.Seconds())
	}
}

// RateLimited counts a refusal by a limit of a plan, named as in the configuration, or for want of a place at the
// upstream: queue or gate; or a stream that a limit has ended.
func (m *Metrics) RateLimited(limit string) {
	if m != nil {
		m.rateLimited.WithLabelValues(limit).Inc()
	}
}

// AuthFailed counts a refused credential: missing, wrong, conflicting, token (a genuine one that is not accepted),
// user_header, ticket, or throttled (a wrong credential or ticket from an address with too many).
func (m *Metrics) AuthFailed(kind string) {
	if m != nil {
		m.authFailures.WithLabelValues(kind).Inc()
	}
}

// LogBytes moves the memory that event logs and held request bodies take by delta.
func (m *Metrics) LogBytes(delta int64) {
	if m != nil {
		m.logBytes.Add(float64(delta))
	}
}

// Logs moves the number of event logs in memory by delta.
func (m *Metrics) Logs(delta int) {
	if m != nil {
		m.logs.Add(float64(delta))
	}
}

// Outcomes of a reload.
const (
	reloadApplied = "applied"
	reloadRefused = "refused"
)

// ConfigReloaded counts a reload of the configuration, which was applied or refused.
func (m *Metrics) ConfigReloaded(applied bool) {
	switch {
	case m == nil:
	case applied:
		m.configReloads.WithLabelValues(reloadApplied).Inc()
		m.configGood.Set(1)
		m.configGoodAt.SetToCurrentTime()
	default:
		m.configReloads.WithLabelValues(reloadRefused).Inc()
		m.configGood.Set(0)
	}
}

// CallbackRetried counts an attempt at a callback that failed and will be repeated.
func (m *Metrics) CallbackRetried() {
	if m != nil {
		m.callbacks.WithLabelValues("retried").Inc()
	}
}

// CallbackEnded counts the last attempt at a callback, delivered or failed, and how many it took.
func (m *Metrics) CallbackEnded(outcome string, attempts int) {
	if m != nil {
		m.callbacks.WithLabelValues(outcome).Inc()
		m.callbackAttempts.Observe(float64(attempts))
	}
}

// Batches moves the number of watched batches of a status by delta. A status that the API did not have when this was
// written counts as other.
func (m *Metrics) Batches(status string, delta int) {
	if m == nil {
		return
	}
	switch status {
	case "in_progress", "canceling", "ended":
	default:
		status = "other"
	}
	m.batches.WithLabelValues(status).Add(float64(delta))
}

// BatchPolled counts a question to the upstream about an unfinished batch: changed, unchanged, failed or lost.
func (m *Metrics) BatchPolled(outcome string) {
	if m != nil {
		m.batchPolls.WithLabelValues(outcome).Inc()
	}
}

// BackgroundDepth sets the number of background streams that have not ended.
func (m *Metrics) BackgroundDepth(n int) {
	if m != nil {
		m.backgroundDepth.Set(float64(n))
	}
}

// BackgroundAttempt counts an attempt at a background stream: completed, failed, canceled, refused for now, interrupted
// by the end of the process, or lost with it.
func (m *Metrics) BackgroundAttempt(outcome string) {
	if m != nil {
		m.backgroundTries.WithLabelValues(outcome).Inc()
	}
}

// model keeps the label's values a bounded set.
func (m *Metrics) model(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.models[name] {
		return name
	}
	if len(m.models) >= maxModels || len(name) > 128 {
		return "other"
	}
	m.models[name] = true
	return name
}
