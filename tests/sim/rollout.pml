/* The rollout of placements between coordinators and workers, for Spin: every interleaving of
 * prepare, activate and abort with crashes of a coordinator between its write and its words, with two
 * coordinators on one disk, with a disk that was emptied, and with crashes of a worker. The code is
 * coordinator/cluster_state.h, cluster_rollout.cc, member_session.h and expert_worker/expert_store.h;
 * rollout_model.sh checks this.
 *
 * A table is a set of experts for each of two workers. Loading takes one step. A coordinator's
 * words to a worker are lost when the worker registers again.
 *
 * BUG_*: what the assertions must catch.
 */
#define W 2         /* workers */
#define C 2         /* coordinators */
#define ALL 3       /* both experts */
#ifndef EPOCHS
#define EPOCHS 2    /* given out at most */
#endif
#ifndef CRASHES
#define CRASHES 1   /* of any process */
#endif
#ifndef MOVES
#define MOVES 1     /* of a worker to another coordinator although its own is there */
#endif
#define DRAWS 8     /* a term is generation * DRAWS + the draw of its process */

mtype = { PREPARE, ACTIVATE, ABORT };

/* What a coordinator says to a worker: the table is the experts of worker 0 and of worker 1. */
chan stream[W] = [2] of { mtype, byte, byte, byte, byte };  /* what, term, epoch, table */

/* The disk that coordinators share, and its fence. */
byte disk_term, disk_epoch, disk_t0, disk_t1;

/* Coordinators. */
bool alive[C];
byte term[C], epoch[C], t0[C], t1[C];       /* t0, t1: the active table */
bool rolling[C];
byte target[C], n0[C], n1[C];               /* the rollout's epoch and table */
byte draws;

/* What each coordinator was last told by each worker; index c * W + w. */
byte told_prepared[4], told_held[4];
bool told_fresh[4];                         /* ghost: the worker is still as it said */

/* Workers. */
byte with[W];                               /* coordinator + 1; 0: not registered */
byte with_term[W];
byte seen_term[W], seen_epoch[W];
byte active_term[W], active_epoch[W], active_set[W];
byte prepared_epoch[W], prepared_set[W];
byte held[W];

byte crashes, moves;

/* Ghosts: the table that was announced as active under an epoch, and in which term. */
byte ghost_set[8], ghost_term[8], ghost_t0[8], ghost_t1[8];

#define CAN_SAVE(c) (disk_term <= term[c] && disk_epoch <= epoch[c])
#define MINE(w, a, b) (w == 0 -> a : b)

inline save(c) {
  disk_term = term[c]; disk_epoch = epoch[c]; disk_t0 = t0[c]; disk_t1 = t1[c]
}

/* A word for each worker that is registered here in this term. A full stream is a broken one. */
inline say(c, what, e, a, b) {
  assert(disk_epoch >= e);  /* nothing is announced that is not on disk */
  w_ = 0;
  do
  :: w_ < W ->
     if
     :: with[w_] == c + 1 && with_term[w_] == term[c] &&
        (what == ACTIVATE || MINE(w_, a, b) != 0) ->
        if
        :: nfull(stream[w_]) -> stream[w_] ! what(term[c], e, a, b)
        :: full(stream[w_]) -> with[w_] = 0
        fi
     :: else
     fi;
     w_++
  :: else -> break
  od;
  w_ = 0
}

/* One term and epoch, one table. */
inline note_active(c, e, a, b) {
  if
  :: ghost_set[e] && ghost_term[e] == term[c] ->
     assert(ghost_t0[e] == a && ghost_t1[e] == b)
  :: else
  fi;
#ifndef WIPE
  /* While a disk lasts, an epoch has one table in whatever term. */
  if
  :: ghost_set[e] -> assert(ghost_t0[e] == a && ghost_t1[e] == b)
  :: else
  fi;
#endif
  ghost_set[e] = 1; ghost_term[e] = term[c]; ghost_t0[e] = a; ghost_t1[e] = b
}

/* An expert that a table places is in the memory of a worker that it names, or all of those have
 * changed since they said so. */
inline check_holders(c, a, b) {
  assert(((a & 1) && ((held[0] & 1) || !told_fresh[c * W])) ||
         ((b & 1) && ((held[1] & 1) || !told_fresh[c * W + 1])));
  assert(((a & 2) && ((held[0] & 2) || !told_fresh[c * W])) ||
         ((b & 2) && ((held[1] & 2) || !told_fresh[c * W + 1])))
}

#define READY(c, w, mine) \
  (mine == 0 || (told_prepared[c * W + w] >= target[c] && (told_held[c * W + w] & mine) == mine))
#ifdef BUG_ACTIVATE_EARLY
#define MAY_ACTIVATE(c) true
#else
#define MAY_ACTIVATE(c) (READY(c, 0, n0[c]) && READY(c, 1, n1[c]))
#endif

proctype Coordinator(byte c) {
  byte w_, a, b;
start:
  atomic {
    draws++;
    term[c] = ((disk_term / DRAWS) + 1) * DRAWS + draws;
    epoch[c] = disk_epoch; t0[c] = disk_t0; t1[c] = disk_t1;
    rolling[c] = 0; target[c] = 0; n0[c] = 0; n1[c] = 0;
    told_prepared[c * W] = 0; told_held[c * W] = 0; told_fresh[c * W] = 0;
    told_prepared[c * W + 1] = 0; told_held[c * W + 1] = 0; told_fresh[c * W + 1] = 0;
    save(c);
    alive[c] = 1
  }
  do
  :: atomic { !rolling[c] && epoch[c] < EPOCHS && CAN_SAVE(c) ->
       /* Apart, both, all on one. */
       if :: a = 1; b = 2 :: a = 3; b = 3 :: a = 0; b = 3 fi;
       epoch[c]++; target[c] = epoch[c]; n0[c] = a; n1[c] = b; rolling[c] = 1;
       a = 0; b = 0;
#ifdef BUG_ANNOUNCE_FIRST
       say(c, PREPARE, target[c], n0[c], n1[c])
#else
       save(c)
#endif
     }
     /* It may die here. */
     if
     :: atomic { rolling[c] ->
#ifdef BUG_ANNOUNCE_FIRST
          if :: CAN_SAVE(c) -> save(c) :: else fi
#else
          say(c, PREPARE, target[c], n0[c], n1[c])
#endif
        }
     :: !rolling[c]
     :: atomic { crashes < CRASHES && draws < DRAWS - 1 -> crashes++; alive[c] = 0 } goto start
     fi
  :: atomic { rolling[c] && CAN_SAVE(c) && MAY_ACTIVATE(c) ->
       rolling[c] = 0; t0[c] = n0[c]; t1[c] = n1[c];
       check_holders(c, t0[c], t1[c]);
       note_active(c, target[c], t0[c], t1[c]);
       save(c)
     }
     if
     :: atomic { say(c, ACTIVATE, target[c], t0[c], t1[c]) }
     :: atomic { crashes < CRASHES && draws < DRAWS - 1 -> crashes++; alive[c] = 0 } goto start
     fi
  :: atomic { rolling[c] -> rolling[c] = 0; say(c, ABORT, target[c], n0[c], n1[c]) }
#ifdef WIPE
  :: atomic { crashes < CRASHES && draws < DRAWS - 1 ->
       crashes++; alive[c] = 0;
       disk_term = 0; disk_epoch = 0; disk_t0 = 0; disk_t1 = 0 } goto start
#endif
  od
}

/* Its coordinator is there and knows it. */
#define SERVED(w) (with[w] != 0 && alive[with[w] - 1] && with_term[w] == term[with[w] - 1])
#define LEAVES(w, c) (SERVED(w) && with[w] != c + 1)
#define MAY_REGISTER(w, c) (alive[c] && CAN_SAVE(c) && \
  (!SERVED(w) || (with[w] != c + 1 && moves < MOVES)))

/* With whom it is registered; what it has seen is learnt there. */
inline register(w, c) {
  d_step {
    if
    :: seen_term[w] >= term[c] && seen_term[w] != with_term[w] ->
       term[c] = ((seen_term[w] / DRAWS) + 1) * DRAWS + (term[c] % DRAWS)
    :: seen_term[w] > term[c] && seen_term[w] == with_term[w] ->
       term[c] = ((seen_term[w] / DRAWS) + 1) * DRAWS + (term[c] % DRAWS)
    :: else
    fi;
#ifndef BUG_FORGET_SEEN
    if
    :: seen_epoch[w] > epoch[c] ->
       epoch[c] = seen_epoch[w]; rolling[c] = 0;
       if
       :: seen_term[w] >= term[c] ->
          term[c] = ((seen_term[w] / DRAWS) + 1) * DRAWS + (term[c] % DRAWS)
       :: else
       fi
    :: else
    fi;
#endif
    save(c);
    with[w] = c + 1; with_term[w] = term[c];
    if :: term[c] > seen_term[w] -> seen_term[w] = term[c] :: else fi;
    told_prepared[c * W + w] = 0; told_held[c * W + w] = held[w];
    told_fresh[c * W + w] = 1; told_fresh[(1 - c) * W + w] = 0
  }
}

proctype Worker(byte w) {
  mtype what;
  byte t, e, a, b, mine;
  do
  :: atomic { nempty(stream[w]) && with[w] != 0 ->
       stream[w] ? what(t, e, a, b);
       mine = MINE(w, a, b);
       if
       :: e > active_epoch[w] || (e == active_epoch[w] && t > active_term[w]) ->
          if :: t > seen_term[w] -> seen_term[w] = t :: else fi;
          if :: e > seen_epoch[w] -> seen_epoch[w] = e :: else fi;
          if
          :: what == PREPARE ->
             held[w] = held[w] | mine; prepared_epoch[w] = e; prepared_set[w] = mine
          :: what == ABORT && prepared_epoch[w] == e && e != active_epoch[w] ->
             prepared_epoch[w] = 0; prepared_set[w] = 0; held[w] = active_set[w];
             told_fresh[0 * W + w] = 0; told_fresh[1 * W + w] = 0
          :: what == ABORT && (prepared_epoch[w] != e || e == active_epoch[w])
          :: what == ACTIVATE ->
             assert(e > active_epoch[w] || t > active_term[w]);
             active_epoch[w] = e; active_term[w] = t; active_set[w] = mine;
             if
             :: prepared_epoch[w] > e -> held[w] = mine | prepared_set[w]
             :: else -> held[w] = mine; prepared_epoch[w] = 0; prepared_set[w] = 0
             fi
          fi
       :: else
       fi;
       t = 0; e = 0; a = 0; b = 0; mine = 0
     }
  :: atomic { SERVED(w) ->
       /* A heartbeat. */
       e = (with[w] - 1) * W + w;
       if
       :: prepared_epoch[w] > active_epoch[w] -> told_prepared[e] = prepared_epoch[w]
       :: else -> told_prepared[e] = active_epoch[w]
       fi;
       told_held[e] = held[w]; told_fresh[e] = 1; e = 0
     }
  :: atomic { MAY_REGISTER(w, 0) ->
       if :: LEAVES(w, 0) -> moves++ :: else fi;
       do :: nempty(stream[w]) -> stream[w] ? what(t, e, a, b) :: empty(stream[w]) -> break od;
       t = 0; e = 0; a = 0; b = 0;
       register(w, 0) }
  :: atomic { MAY_REGISTER(w, 1) ->
       if :: LEAVES(w, 1) -> moves++ :: else fi;
       do :: nempty(stream[w]) -> stream[w] ? what(t, e, a, b) :: empty(stream[w]) -> break od;
       t = 0; e = 0; a = 0; b = 0;
       register(w, 1) }
  :: atomic { crashes < CRASHES ->
       /* A new process: it has seen nothing and holds nothing. */
       crashes++;
       do :: nempty(stream[w]) -> stream[w] ? what(t, e, a, b) :: empty(stream[w]) -> break od;
       t = 0; e = 0; a = 0; b = 0;
       with[w] = 0; with_term[w] = 0; seen_term[w] = 0; seen_epoch[w] = 0;
       active_term[w] = 0; active_epoch[w] = 0; active_set[w] = 0;
       prepared_epoch[w] = 0; prepared_set[w] = 0; held[w] = 0;
       told_fresh[0 * W + w] = 0; told_fresh[1 * W + w] = 0 }
  od
}

init {
#ifndef ALONE
  atomic { run Coordinator(0); run Coordinator(1); run Worker(0); run Worker(1) }
#else
  atomic { run Coordinator(0); run Worker(0); run Worker(1) }
#endif
}
