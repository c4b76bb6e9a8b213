package claude

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"
)

// Batch is a MessageBatch, as far as we look into it.
type Batch struct {
	ID      string
	Status  string // in_progress, canceling, ended
	Created time.Time
	Expires time.Time
	Counts  BatchCounts
	Raw     []byte // the whole object as it came
}

// BatchCounts is request_counts. By contract they don't move before the batch has ended.
type BatchCounts struct {
	Processing int `json:"processing"`
	Succeeded  int `json:"succeeded"`
	Errored    int `json:"errored"`
	Canceled   int `json:"canceled"`
	Expired    int `json:"expired"`
}

// BatchEnded is the last status of a batch.
const BatchEnded = "ended"

// ParseBatch reads a MessageBatch; ok is false where data is none.
func ParseBatch(data []byte) (b Batch, ok bool) {
	if !json.Valid(data) {
		return b, false
	}
	kind, _ := text(member(data, "type"))
	b.ID, _ = text(member(data, "id"))
	b.Status, _ = text(member(data, "processing_status"))
	b.Created = moment(member(data, "created_at"))
	b.Expires = moment(member(data, "expires_at"))
	if counts := member(data, "request_counts"); counts != nil && json.Unmarshal(counts, &b.Counts) != nil {
		return b, false
	}
	b.Raw = data
	return b, kind == "message_batch" && b.ID != "" && b.Status != ""
}

func moment(raw []byte) time.Time {
	s, _ := text(raw)
	t, _ := time.Parse(time.RFC3339Nano, s)
	return t
}

// WithResultsURL is the object with another results_url, where it has one: who follows the upstream's own would send it
// a key of ours. further, if not nil, is added under "sluice".
func (b Batch) WithResultsURL(url string, further []byte) []byte {
	var o object
	o.merge(b.Raw)
	if old, _ := text(o.get("results_url")); old != "" {
		quoted, _ := json.Marshal(url)
		o.set("results_url", quoted)
	}
	if further != nil {
		o.set("sluice", further)
	}
	return o.json()
}

// MaxBatch is Anthropic's limit for the creation of a batch, in bytes.
const MaxBatch = 256_000_000

// maxItem bounds one request in a batch, since it is held while it is checked: as a request of its own is bounded.
const maxItem = 32_000_000

// BatchItem is one request of a batch that is being created.
type BatchItem struct {
	CustomID  string
	Models    []string // model, and those of fallbacks
	MaxTokens int64    // 0: not given
	Raw       []byte   // valid until check returns, as is Params
	Params    []byte   // the Messages request in it
}

// CopyBatch copies the body of a batch's creation from r to w, and has check look at each item before the item goes on,
// and whole, once all have passed, before the end does. Its memory is that of one item. Before all is checked, w has not
// got the whole: breaking off then creates nothing. A body that is not one is an *Error, and so is an item that could be
// read in two ways. What check, whole, r or w return as an error is returned.
func CopyBatch(w io.Writer, r io.Reader, check func(BatchItem) error, whole func() error) error {
	c := &batchCopy{in: bufio.NewReaderSize(r, 64<<10), out: w, check: check}
	if err := c.copy(); err != nil {
		if errors.Is(err, io.EOF) {
			return notJSON
		}
		return err
	}
	if err := whole(); err != nil {
		return err
	}
	return c.flush()
}

type batchCopy struct {
	in    *bufio.Reader
	out   io.Writer
	check func(BatchItem) error
	held  []byte // read and not yet handed on
	items int
}

var notJSON error = &Error{Type: InvalidRequest, Status: http.StatusBadRequest, Message: "The request body is not valid JSON."}

func invalidItem(at int, format string, args ...any) error {
	return &Error{Type: InvalidRequest, Status: http.StatusBadRequest, Message: fmt.Sprintf("requests.%d", at) + fmt.Sprintf(format, args...)}
}

func (c *batchCopy) flush() error {
	if len(c.held) == 0 {
		return nil
	}
	_, err := c.out.Write(c.held)
	if c.held = c.held[:0]; cap(c.held) > 1<<20 {
		c.held = nil
	}
	return err
}

// next is the next byte, held.
func (c *batchCopy) next() (byte, error) {
	b, err := c.in.ReadByte()
	if err == nil {
		c.held = append(c.held, b)
	}
	return b, err
}

// token is the next byte that is no white space.
func (c *batchCopy) token() (byte, error) {
	for {
		b, err := c.next()
		if err != nil || b != ' ' && b != '\n' && b != '\r' && b != '\t' {
			return b, err
		}
		if len(c.held) > maxItem {
			return 0, notJSON
		}
	}
}

func (c *batchCopy) copy() error {
	if b, err := c.token(); err != nil || b != '{' {
		return errors.Join(err, notJSON)
	}
	for first := true; ; first = false {
		b, err := c.token()
		if err != nil {
			return err
		}
		if first && b == '}' {
			break
		}
		if b != '"' {
			return notJSON
		}
		start := len(c.held) - 1
		if err := c.value(b); err != nil {
			return err
		}
		var key string
		if json.Unmarshal(c.held[start:], &key) != nil {
			return notJSON
		}
		if b, err = c.token(); err != nil || b != ':' {
			return errors.Join(err, notJSON)
		}
		if b, err = c.token(); err != nil {
			return err
		}
		if key == "requests" && b == '[' {
			err = c.list()
		} else {
			start := len(c.held) - 1
			if err = c.value(b); err == nil && !json.Valid(c.held[start:]) {
				err = notJSON
			}
		}
		if err != nil {
			return err
		}
		if b, err = c.token(); err != nil {
			return err
		}
		if b == '}' {
			break
		}
		if b != ',' {
			return notJSON
		}
	}
	for {
		switch _, err := c.token(); err {
		case nil:
			return notJSON
		case io.EOF:
			return nil
		default:
			return err
		}
	}
}

func (c *batchCopy) list() error {
	for first := true; ; first = false {
		b, err := c.token()
		if err != nil {
			return err
		}
		if first && b == ']' {
			return nil
		}
		if err := c.flushBefore(); err != nil {
			return err
		}
		start := len(c.held) - 1
		if err := c.value(b); err != nil {
			return err
		}
		item, err := parseItem(c.held[start:], c.items)
		if err == nil {
			err = c.check(item)
		}
		if err != nil {
			return err
		}
		c.items++
		if b, err = c.token(); err != nil {
			return err
		}
		if b == ']' {
			return nil
		}
		if b != ',' {
			return notJSON
		}
	}
}

// flushBefore hands on what has been checked: all but the byte just read.
func (c *batchCopy) flushBefore() error {
	last := c.held[len(c.held)-1]
	c.held = c.held[:len(c.held)-1]
	err := c.flush()
	c.held = append(c.held, last)
	return err
}

// value reads the rest of a value that begins with b. Whether what is between the brackets is JSON is not its business.
func (c *batchCopy) value(b byte) error {
	depth, quoted := 0, false
	for {
		switch {
		case quoted && b == '\\':
			if _, err := c.next(); err != nil {
				return err
			}
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '{' || b == '[':
			depth++
		case b == '}' || b == ']':
			depth--
		}
		if depth < 0 {
			return notJSON
		}
		if depth == 0 && !quoted {
			if b == '"' || b == '}' || b == ']' {
				return nil
			}
			// A number or a word ends before what cannot be in it.
			after, err := c.in.Peek(1)
			if err != nil {
				return err
			}
			if after[0] == ',' || after[0] == '}' || after[0] == ']' || after[0] <= ' ' {
				return nil
			}
		}
		if len(c.held) > maxItem {
			return &Error{Type: TooLarge, Status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("A request in the batch is larger than %d MB.", maxItem/1_000_000)}
		}
		var err error
		if b, err = c.next(); err != nil {
			return err
		}
	}
}

// parseItem reads what must be checked of an item. Whether the rest is right is for the upstream to say.
func parseItem(raw []byte, at int) (item BatchItem, err error) {
	if !json.Valid(raw) {
		return item, notJSON
	}
	fields, err := distinct(raw, at, "")
	if err != nil {
		return item, err
	}
	params, err := distinct(fields["params"], at, ".params")
	if err != nil {
		return item, err
	}
	item.Raw, item.Params = raw, fields["params"]
	item.CustomID, _ = text(fields["custom_id"])
	if model, ok := text(params["model"]); ok {
		item.Models = append(item.Models, model)
	}
	var fallbacks []struct {
		Model string `json:"model"`
	}
	_ = json.Unmarshal(params["fallbacks"], &fallbacks) // another shape is the upstream's to refuse
	for _, f := range fallbacks {
		item.Models = append(item.Models, f.Model)
	}
	if raw := params["max_tokens"]; raw != nil && json.Unmarshal(raw, &item.MaxTokens) != nil {
		return item, invalidItem(at, ".params.max_tokens: Input should be a valid integer")
	}
	return item, nil
}

// distinct are the members of an object, each of which must be there once and spelt plainly: of two, one might be
// checked here and the other obeyed there.
func distinct(raw []byte, at int, where string) (map[string][]byte, error) {
	fields := make(map[string][]byte)
	twice := ""
	ok := members(raw, func(key, value []byte) bool {
		if _, seen := fields[string(key)]; seen {
			twice = string(key)
			return false
		}
		fields[string(key)] = value
		return true
	})
	switch {
	case twice != "":
		return nil, invalidItem(at, "%s.%.64s: is given twice", where, twice)
	case !ok:
		return nil, invalidItem(at, "%s: Input should be an object with plain keys", where)
	}
	return fields, nil
}

// BatchResult is one line of a batch's results.
type BatchResult struct {
	CustomID     string
	Type         string // succeeded, errored, canceled, expired
	Model        string // of a succeeded one
	Usage        Usage
	ErrorType    string // of an errored one
	ErrorMessage string
}

// ParseResult reads a line of a batch's results.
func ParseResult(line []byte) (r BatchResult, ok bool) {
	if !json.Valid(line) {
		return r, false
	}
	result := member(line, "result")
	r.CustomID, _ = text(member(line, "custom_id"))
	r.Type, ok = text(member(result, "type"))
	switch r.Type {
	case "succeeded":
		r.Model, r.Usage, _ = UsageOf(member(result, "message"))
	case "errored":
		r.ErrorType, r.ErrorMessage, _ = ParseError(member(result, "error"))
	}
	return r, ok
}

// MaxResult bounds one line of a batch's results, as an event log is bounded.
const MaxResult = 32_000_000

// Lines yields the lines of a body, without their ends and without empty ones, each valid until the next. An error, io.EOF
// apart, is the last thing that it yields.
func Lines(r io.Reader) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		in := bufio.NewReaderSize(r, 64<<10)
		var long []byte
		for {
			part, err := in.ReadSlice('\n')
			if err == bufio.ErrBufferFull {
				if long = append(long, part...); len(long) > MaxResult {
					yield(nil, nonsense(fmt.Sprintf("The upstream sent a result of more than %d MB.", MaxResult/1_000_000), nil, nil))
					return
				}
				continue
			}
			line := part
			if len(long) > 0 {
				line = append(long, part...)
			}
			for len(line) > 0 && (line[len(line)-1] == '\n' || line[len(line)-1] == '\r') {
				line = line[:len(line)-1]
			}
			if len(line) > 0 && (err == nil || err == io.EOF) && !yield(line, nil) {
				return
			}
			if err != nil {
				if err != io.EOF {
					yield(nil, err)
				}
				return
			}
			if long = long[:0]; cap(long) > 1<<20 {
				long = nil
			}
		}
	}
}
