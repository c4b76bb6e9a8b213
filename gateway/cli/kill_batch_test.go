package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
)

// batchKillSteps are where the gateway is killed on the way of a batch.
var batchKillSteps = []string{
	"made",     // the batch is on record, its maker has no answer
	"ended",    // it was seen to have ended, and nothing has been done about it
	"summed",   // what it has used is kept, its callback is not on record
	"noted",    // the callback is on record, not in its queue
	"enqueued", // the callback is in its queue, and may be sent meanwhile; the batch is not over
	"over",     // all is done but the callback, which may be anywhere
	"answered", // the receiver has taken it, which is not kept
}

// TestKilledGatewayTellsTheEndOfEachBatch kills the real binary (kill -9) at each step, starts it again, and looks that
// each batch stays its maker's, that what it has used is summed up once, and that whoever asked is told under one id.
func TestKilledGatewayTellsTheEndOfEachBatch(t *testing.T) {
	t.Parallel()
	binary := buildWithFailpoints(t)
	for _, step := range batchKillSteps {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			k := newKilling(t, binary, step)
			var made []string
			for round := range *killRounds {
				made = append(made, k.batchRound(round))
			}
			told, times := k.receiver.counts()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			k.start("")
			k.makeBatch(ctx, step+"-new")
			k.endsBatch(step + "-new")
			k.receiver.isTold(ctx, step+"-new", 1)
			k.isSettled(ctx)
			if now, _ := k.receiver.counts(); now != told {
				t.Errorf("the receiver was told %s, and after another start %s", told, now)
			}
			var page struct{ Data []batchObject }
			if _, body := k.get(batchesPath + "?limit=100"); json.Unmarshal([]byte(body), &page) != nil || len(page.Data) != len(made)+1 {
				t.Errorf("%s", body)
			}
			for _, one := range page.Data {
				if one.Sluice == nil || one.Sluice.Usage.Input != 3 || one.Sluice.Usage.Output != 5 || one.Sluice.Callback.Status != "delivered" {
					t.Errorf("%+v", one)
				}
			}
			t.Logf("%d kills: each batch was told; callbacks came so many times: %v", len(made), times)
		})
	}
}

type batchObject struct {
	ID     string
	Status string `json:"processing_status"`
	Sluice *struct {
		Usage struct {
			Input  int64 `json:"input_tokens"`
			Output int64 `json:"output_tokens"`
		}
		Callback struct{ Status string }
	}
}

// batchRound kills the gateway once on the way of a batch, whose name it returns.
func (k *killing) batchRound(round int) string {
	t := k.t
	name := fmt.Sprintf("%s-%d", k.step, round)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	k.start(k.step)
	if k.step == "made" {
		asking, leave := context.WithCancel(ctx)
		go k.ask(asking, batchesPath, batchOf(name), nil, "Sluice-Callback-Url", k.callbacks+name)
		k.reaches(ctx)
		leave()
	} else {
		k.makeBatch(ctx, name)
		k.endsBatch(name)
		k.reaches(ctx)
	}
	k.kill()
	k.start("")
	var page struct{ Data []batchObject }
	_, body := k.get(batchesPath + "?limit=100")
	if err := json.Unmarshal([]byte(body), &page); err != nil || !slices.ContainsFunc(page.Data, func(one batchObject) bool { return one.ID == name }) {
		t.Fatalf("the batch is not listed: %s", body)
	}
	k.endsBatch(name)
	told := k.receiver.isTold(ctx, name, 1)
	k.isSettled(ctx)
	if told.object != name || told.kind != "batch.ended" {
		t.Errorf("told of %s: %s", name, told.body)
	}
	k.kill()
	return name
}

func batchOf(name string) string {
	return fmt.Sprintf(`{"requests":[{"custom_id":%q,"params":{"model":"claude-x","max_tokens":9,"messages":[{"role":"user","content":"x"}]}}]}`, name)
}

func (k *killing) makeBatch(ctx context.Context, name string) {
	k.t.Helper()
	var made batchObject
	if err := k.ask(ctx, batchesPath, batchOf(name), &made, "Sluice-Callback-Url", k.callbacks+name); err != nil || made.ID != name || made.Status != "in_progress" {
		k.t.Fatalf("%v %+v", err, made)
	}
}

// endsBatch asks for a batch, by which the gateway sees that it has ended, before its watcher would ask.
func (k *killing) endsBatch(name string) {
	k.t.Helper()
	var one batchObject
	if _, body := k.get(batchesPath + "/" + name); json.Unmarshal([]byte(body), &one) != nil || one.Status != "ended" {
		k.t.Fatal(body)
	}
}
